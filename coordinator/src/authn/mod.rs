//! Who somebody is: passwords, second factors, keys of nodes, tokens.

pub(crate) mod limiter;
pub(crate) mod lockout;
pub mod password;
pub(crate) mod secret;
pub mod token;
pub(crate) mod two_factor;
