//! What light allows between two places.

/// The speed of light in vacuum [km/s].
pub const LIGHT_KM_S: f64 = 299_792.458;
/// The refractive index of optical fibre: light in it is this much slower.
pub const FIBRE_INDEX: f64 = 1.468;
/// How far a region's coordinates may be from its servers, both ends together [km].
pub const SLACK_KM: f64 = 100.0;
/// The earth's mean radius [km].
const EARTH_KM: f64 = 6_371.0;

/// A point on the earth [degrees].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Coordinates {
    /// Degrees north [-90, 90].
    pub latitude: f64,
    /// Degrees east [-180, 180].
    pub longitude: f64,
}

impl Coordinates {
    /// The great-circle distance to `other` [km] (haversine).
    pub fn distance_km(&self, other: &Coordinates) -> f64 {
        let (a, b) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_latitude = (b - a) / 2.0;
        let half_longitude = (other.longitude - self.longitude).to_radians() / 2.0;
        let h = half_latitude.sin().powi(2) + a.cos() * b.cos() * half_longitude.sin().powi(2);
        2.0 * EARTH_KM * h.sqrt().min(1.0).asin()
    }

    /// The shortest round trip through fibre along the great circle [s]: the soft floor. Stretch = RTT / soft floor.
    pub fn soft_floor_s(&self, other: &Coordinates) -> f64 {
        2.0 * self.distance_km(other) * FIBRE_INDEX / LIGHT_KM_S
    }

    /// The shortest round trip in vacuum [s]: below this an endpoint is not where the fleet file says.
    pub fn hard_floor_s(&self, other: &Coordinates) -> f64 {
        2.0 * self.distance_km(other) / LIGHT_KM_S
    }

    /// The least time one way that bounds may rely on [ns]: in vacuum, with the coordinates' slack taken off.
    pub fn one_way_floor_ns(&self, other: &Coordinates) -> i64 {
        let far_km = self.distance_km(other) - SLACK_KM;
        if far_km <= 0.0 {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 67 ms on this planet")]
        let floor_ns = (far_km / LIGHT_KM_S * 1e9) as i64;
        floor_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// New York to Tokyo is about 10,850 km: 72 ms round trip in vacuum, 106 ms in fibre.
    #[test]
    fn new_york_tokyo() {
        let (new_york, tokyo) =
            (Coordinates { latitude: 40.71, longitude: -74.01 }, Coordinates { latitude: 35.68, longitude: 139.69 });
        assert!((new_york.distance_km(&tokyo) - 10_850.0).abs() < 20.0);
        assert!((new_york.hard_floor_s(&tokyo) - 0.0724).abs() < 0.0005);
        assert!((new_york.soft_floor_s(&tokyo) - 0.1063).abs() < 0.0005);
        assert_eq!(new_york.one_way_floor_ns(&new_york), 0);
    }
}
