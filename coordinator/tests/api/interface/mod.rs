//! The interface as a whole: what its description promises, and that it keeps the promises.

mod docs;
mod document;
mod limit;
mod matrix;
mod operation;
mod query;
mod route;
mod world;
