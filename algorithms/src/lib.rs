//! Federated algorithms of Twinmesh, and the kit to write more.
//!
//! * [`maths`]: the pure part, over any split of the rows;
//! * [`sdk`]: what a run gets from its node: input, data, the gateway, a place for the result;
pub mod maths;
pub mod sdk;
