//! Whole numbers in few bytes: seven bits a byte, the lowest first, signed ones folded so that small ones stay small. Pure; what is
//! read may be any bytes.

/// A number.
pub(crate) fn put(out: &mut Vec<u8>, number: impl Into<u128>) {
    let mut left: u128 = number.into();
    while let Some(more) = (left >> 7 != 0).then_some(left >> 7) {
        out.push(low_bits(left) | 0x80);
        left = more;
    }
    out.push(low_bits(left));
}

/// A number that may be negative.
pub(crate) fn put_signed(out: &mut Vec<u8>, number: impl Into<i128>) {
    let number: i128 = number.into();
    put(out, (number << 1 ^ number >> 127).cast_unsigned());
}

fn low_bits(number: u128) -> u8 {
    u8::try_from(number & 0x7f).expect("seven bits fit")
}

/// What is left to read.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next number; `None` if there is none, or one that does not fit.
    pub(crate) fn number<N: TryFrom<u128>>(&mut self) -> Option<N> {
        let mut number = 0_u128;
        for place in 0..19_u32 {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if place == 18 && bits > 0b11 {
                return None;
            }
            number |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return N::try_from(number).ok();
            }
        }
        None
    }

    /// The next number that may be negative.
    pub(crate) fn signed<N: TryFrom<i128>>(&mut self) -> Option<N> {
        let folded: u128 = self.number()?;
        N::try_from((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed()).ok()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next number with a fraction.
    pub(crate) fn fraction(&mut self) -> Option<f64> {
        let (first, rest): (&'a [u8; 8], _) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(f64::from_le_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is put is read, and nothing is left over.
        #[test]
        fn round_trip(plain: u128, signed: i128, small in -70_i64..70) {
            let mut bytes = Vec::new();
            put(&mut bytes, plain);
            put_signed(&mut bytes, signed);
            put_signed(&mut bytes, small);
            let mut cursor = Cursor(&bytes);
            prop_assert_eq!((cursor.number(), cursor.signed(), cursor.signed()), (Some(plain), Some(signed), Some(small)));
            prop_assert!(cursor.is_empty());
        }

        /// Noise is read or refused, and never panics.
        #[test]
        fn noise(bytes: Vec<u8>) {
            let mut cursor = Cursor(&bytes);
            while cursor.number::<u64>().is_some() && cursor.signed::<i32>().is_some() && cursor.fraction().is_some() {}
        }
    }
}
