//! Who may ask a collector for what: the name in an agent's certificate, and tokens with their roles.

mod identity;
mod tokens;

pub use identity::{BadIdentity, Identity};
pub use tokens::{BadHash, Role, TOKEN_PREFIX, Token, TokenHash, Tokens};
