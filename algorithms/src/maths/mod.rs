//! Pure federated mathematics: no IO, no clock, no random source of its own.
//!
//! Each module offers a *partial* that one organization computes on its own rows, a way to merge partials, and what
//! follows from the merged whole. Any split of the rows over any number of organizations gives the answer that the
//! pooled rows would give.
//!
//! * [`summary`]: counts, means, standard deviations and ranges by mergeable moments;
//! * [`survival`]: Kaplan-Meier curves by merged event tables;
//! * [`formula`]: model formulas such as `cens ~ age + horTh`, and the design matrix they describe;
//! * [`logistic`]: logistic regression by summed gradients and information matrices;
//! * [`collective`]: sums of vectors over twins that talk directly to each other;
//! * [`secret_sharing`]: sums in which no twin sees another's term.

pub mod collective;
pub mod formula;
pub mod logistic;
pub mod secret_sharing;
pub mod summary;
pub mod survival;

#[cfg(test)]
pub(crate) mod reference;
