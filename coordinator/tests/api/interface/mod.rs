//! The interface as a whole: what its description promises, and that it keeps the promises.

mod document;
