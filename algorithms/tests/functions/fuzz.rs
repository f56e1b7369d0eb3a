//! Every target of `fuzz/` for what is read here, on its seeds and on thousands of mutations of them.

#[expect(unreachable_pub, reason = "it is part of the library of `fuzz/`, too")]
#[path = "../../../fuzz/src/runner.rs"]
mod runner;
#[expect(unreachable_pub, reason = "it is part of the library of `fuzz/`, too")]
#[path = "../../../fuzz/src/algorithms.rs"]
mod targets;

#[test]
fn whatever_comes_in_every_decoder_answers() {
    runner::run(targets::TARGETS);
}
