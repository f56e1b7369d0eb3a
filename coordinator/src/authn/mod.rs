//! Who somebody is: passwords, keys of nodes, tokens.

pub(crate) mod lockout;
pub mod password;
pub(crate) mod secret;
pub mod token;
