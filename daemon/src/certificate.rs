//! When a certificate ends.

use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// The end of the validity (`notAfter` of RFC 5280) of a certificate in DER [s since 1970, UTC]; `None` if it is none that can be read.
pub fn not_after_s(der: &[u8]) -> Option<u64> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::not_after_s;

    fn until(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    /// The end is that of the certificate, in either of the two forms that X.509 writes years in.
    #[test]
    fn ends_are_read() {
        assert_eq!(not_after_s(&until(2030)), Some(1_893_456_000));
        assert_eq!(not_after_s(&until(2100)), Some(4_102_444_800));
    }

    proptest! {
        /// Whatever it is given, it reads it or says that it cannot.
        #[test]
        fn nothing_breaks_it(noise in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300, octet in any::<u8>()) {
            let mut damaged = until(2030);
            let place = at % damaged.len();
            damaged[place] = octet;
            not_after_s(&damaged);
            not_after_s(&damaged[..place]);
            prop_assert_eq!(not_after_s(&noise).is_some_and(|end| end == 0), false);
        }
    }
}
