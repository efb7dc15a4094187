//! The same thing for both ways of a round trip.

use serde::{Deserialize, Serialize};

use crate::state::Direction;

/// Something of the way there and of the way back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directed<T> {
    /// From the region to the peer.
    pub forward: T,
    /// From the peer back to the region.
    pub backward: T,
}

impl<T> Directed<T> {
    /// What `of` makes of each word.
    pub fn from_each(mut of: impl FnMut(Direction) -> T) -> Directed<T> {
        Directed { forward: of(Direction::Forward), backward: of(Direction::Backward) }
    }

    /// Both with their words.
    pub fn each(&self) -> [(Direction, &T); 2] {
        [(Direction::Forward, &self.forward), (Direction::Backward, &self.backward)]
    }

    /// What `of` makes of both.
    pub fn map<U>(self, mut of: impl FnMut(T) -> U) -> Directed<U> {
        Directed { forward: of(self.forward), backward: of(self.backward) }
    }

    /// Both beside those of another.
    pub fn zip<U>(self, other: Directed<U>) -> Directed<(T, U)> {
        Directed { forward: (self.forward, other.forward), backward: (self.backward, other.backward) }
    }

    /// References to both.
    pub fn as_mut(&mut self) -> Directed<&mut T> {
        Directed { forward: &mut self.forward, backward: &mut self.backward }
    }

    /// References to both.
    pub fn as_ref(&self) -> Directed<&T> {
        Directed { forward: &self.forward, backward: &self.backward }
    }
}
