//! The functions as tasks call them, in a federation that is played by threads.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{process::Command, sync::atomic::Ordering};

use serde_json::{Value, json};

use self::federation::Federation;

mod federation;
mod fuzz;

const GBSG2: &str = include_str!("../../data/gbsg2.csv");
const FORMULA: &str = "cens ~ age + tsize + pnodes + horTh";

fn reference() -> Value {
    let all: Value = serde_json::from_str(include_str!("../../data/reference.json")).unwrap();
    all["gbsg2"].clone()
}

#[track_caller]
fn assert_close(actual: &Value, expected: &Value, tolerance: f64) {
    let (actual, expected) = (actual.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((actual - expected).abs() <= tolerance * expected.abs(), "{actual} is not {expected}");
}

#[track_caller]
fn assert_regression(result: &Value) {
    let expected = &reference()["logistic cens ~ age+tsize+pnodes+horTh"];
    assert_close(&result["deviance"], &expected["deviance"], 1e-9);
    let coefficients = result["coefficients"].as_array().unwrap();
    assert_eq!(coefficients.len(), 5);
    for coefficient in coefficients {
        let name = coefficient["name"].as_str().unwrap();
        assert_close(&coefficient["estimate"], &expected["coef"][name], 1e-7);
        assert_close(&coefficient["standard_error"], &expected["se"][name], 1e-6);
    }
    assert_eq!(result["rows"], 686);
    assert_eq!(result["organizations"], json!({"1": 229, "2": 229, "3": 228}));
}

#[test]
fn a_federated_summary_is_the_pooled_one() {
    let federation = Federation::new(GBSG2, 3);
    let kwargs = json!({"counts": ["horTh", "tgrade"]});
    let result = &federation.run(&[1], "summary", kwargs).unwrap()[0];
    assert_eq!(result["rows"], 686);
    assert_eq!(result["organizations"], json!({"1": 229, "2": 229, "3": 228}));
    assert_eq!(result["counts"]["horTh"], json!({"levels": {"no": 440, "yes": 246}, "missing": 0}));
    for (column, expected) in reference()["mean_sd"].as_object().unwrap() {
        let actual = &result["columns"][column];
        assert_eq!((&actual["n"], &actual["missing"]), (&json!(686), &json!(0)));
        assert_close(&actual["mean"], &expected[0], 1e-9);
        assert_close(&actual["sd"], &expected[1], 1e-9);
    }
    assert_eq!(result["columns"]["age"]["min"], 21.0);
    assert_eq!(result["columns"]["age"]["max"], 80.0);
}

#[test]
fn federated_survival_curves_are_the_pooled_ones() {
    let federation = Federation::new(GBSG2, 3);
    let kwargs = json!({"time": "time", "event": "cens", "at": [365, 730, 1000, 1500, 2000, 2500]});
    let result = &federation.run(&[2], "kaplan_meier", kwargs).unwrap()[0]["groups"]["all"];
    assert_eq!(result["median"], reference()["km"]["median"]);
    for point in result["survival_at"].as_array().unwrap() {
        assert_close(&point["survival"], &reference()["km"][format!("S({})", point["time"].as_f64().unwrap())], 1e-9);
    }
    let kwargs = json!({"time": "time", "event": "cens", "group": "horTh", "organizations": [1, 2, 3]});
    let result = &federation.run(&[2], "kaplan_meier", kwargs).unwrap()[0];
    for group in ["yes", "no"] {
        for field in ["n", "events", "median"] {
            let expected = &reference()[format!("km_horTh_{group}")][field];
            assert_eq!(result["groups"][group][field].as_f64(), expected.as_f64());
        }
    }
}

#[test]
fn a_regression_by_subtasks_is_the_pooled_one() {
    let federation = Federation::new(GBSG2, 3);
    assert_regression(&federation.run(&[1], "logistic", json!({"formula": FORMULA})).unwrap()[0]);
}

#[test]
fn a_regression_by_twins_is_the_pooled_one_at_every_twin() {
    let federation = Federation::new(GBSG2, 3);
    let results = federation.run(&[1, 2, 3], "logistic_twin", json!({"formula": FORMULA})).unwrap();
    assert_regression(&results[0]);
    assert!(results.iter().all(|result| *result == results[0]));
    assert_eq!(federation.tasks(), 1);
}

#[test]
fn a_secure_sum_is_exact_and_the_same_at_every_twin() {
    let federation = Federation::new(GBSG2, 3);
    let results = federation.run(&[1, 2, 3], "secure_sum_twin", json!({"column": "pnodes"})).unwrap();
    assert_eq!((&results[0]["total"], &results[0]["twins"]), (&json!(3437), &json!(3)));
    assert!(results.iter().all(|result| *result == results[0]));
    let kwargs = json!({"where": {"column": "horTh", "equals": "yes"}});
    assert_eq!(federation.run(&[1, 3, 2], "secure_sum_twin", kwargs).unwrap()[2]["total"], 246);
}

#[test]
fn two_twins_are_too_few_for_a_secure_sum() {
    let federation = Federation::new(GBSG2, 2);
    let errors = federation.run(&[1, 2], "secure_sum_twin", json!({"column": "pnodes"})).unwrap_err();
    assert!(errors.iter().all(|error| error.contains("2 take part, at least 3 are needed")), "{errors:?}");
}

#[test]
fn long_vectors_are_summed_alike_at_every_twin() {
    let federation = Federation::new(GBSG2, 4);
    let kwargs = json!({"elements": 300_000, "rounds": 2});
    let results = federation.run(&[1, 2, 3, 4], "allreduce_bench_twin", kwargs).unwrap();
    assert!(results.iter().all(|result| result["checksum"] == results[0]["checksum"]));
    assert_eq!(results[0]["vector_bytes"], 2_400_000);
    assert_eq!(results[0]["seconds_per_round"].as_array().unwrap().len(), 2);
}

#[test]
fn a_gateway_that_is_away_for_a_while_is_waited_for() {
    let federation = Federation::new(GBSG2, 3);
    federation.cut.store(4, Ordering::SeqCst);
    federation.unavailable.store(3, Ordering::SeqCst);
    let result = &federation.run(&[1], "summary", json!({"columns": ["age"]})).unwrap()[0];
    assert_eq!(result["rows"], 686);
}

#[test]
fn a_central_function_that_starts_over_gets_the_subtasks_it_made_before() {
    let federation = Federation::new(GBSG2, 3);
    let kwargs = json!({"formula": FORMULA});
    let first = federation.run(&[1], "logistic", kwargs.clone()).unwrap().remove(0);
    let tasks = federation.tasks();
    assert_eq!(federation.again(1, 1, "logistic", &kwargs), first);
    assert_eq!(federation.tasks(), tasks);
}

#[test]
fn too_few_rows_are_refused_and_the_reason_reaches_the_central_function() {
    let few: String = GBSG2.lines().take(1 + 14).map(|line| format!("{line}\n")).collect();
    let federation = Federation::new(&few, 3);
    let error = &federation.run(&[1], "summary", json!({"columns": ["age"]})).unwrap_err()[0];
    assert!(
        error.starts_with("function `summary` failed: subtask 2 ended as `failed`; run 4 of organization 3"),
        "{error}"
    );
    assert!(error.contains("at least 5 are needed"), "{error}");
    let enough = json!({"columns": ["age"], "organizations": [1, 2]});
    assert_eq!(federation.run(&[1], "summary", enough).unwrap()[0]["rows"], 10);
    // One of the groups is smaller than the whole.
    let kwargs = json!({"time": "time", "event": "cens", "group": "horTh"});
    let error = &federation.run(&[1], "kaplan_meier_partial", kwargs).unwrap_err()[0];
    assert!(error.contains("a group has few rows"), "{error}");
    let error = &federation.run(&[1], "logistic", json!({"formula": FORMULA, "organizations": [1]})).unwrap_err()[0];
    assert!(error.contains("has a value that few rows share; at least 5 are needed"), "{error}");
}

/// Twenty rows for each of `count` organizations, of which `rare` at the first are unlike the others.
fn with_rare_rows(count: usize, rare: usize) -> std::sync::Arc<Federation> {
    let mut text = "y,x,flag,site,value\n".to_owned();
    for row in 0..20 * count {
        let is_rare = row % count == 0 && row / count < rare;
        let (flag, site) = if is_rare { (1, "rare") } else { (0, "usual") };
        text.push_str(&format!("{},{},{flag},{site},{}\n", row / count % 2, row % 7, 1000 + row));
    }
    Federation::new(&text, count)
}

#[test]
fn a_model_with_a_column_that_few_rows_share_is_refused() {
    for formula in ["y ~ x + site", "y ~ x + flag", "y ~ x + C(flag)", "flag ~ x"] {
        let kwargs = json!({"formula": formula});
        for (function, organizations) in [("logistic", &[2][..]), ("logistic_twin", &[1, 2])] {
            let errors = with_rare_rows(2, 4).run(organizations, function, kwargs.clone()).unwrap_err();
            let reason = "has a value that few rows share; at least 5 are needed";
            assert!(errors.iter().any(|error| error.contains(reason)), "{formula}: {errors:?}");
        }
        assert_eq!(with_rare_rows(2, 5).run(&[2], "logistic", kwargs).unwrap()[0]["rows"], 40, "{formula}");
    }
}

#[test]
fn a_coding_or_coefficients_that_were_made_up_single_nobody_out() {
    let federation = with_rare_rows(1, 1);
    let ask = |formula: &str, coding: Value, coefficients: Value| {
        let at = json!({"coding": coding, "coefficients": coefficients});
        federation
            .run(&[1], "logistic_partial", json!({"formula": formula, "at": at}))
            .map_err(|mut error| error.remove(0))
    };
    // Whether `rare` is in the coding or not, the answer is the same.
    for levels in [json!(["other", "usual"]), json!(["rare", "usual"])] {
        let error = ask("y ~ site", json!({"site": levels}), json!([0.0, 0.0])).unwrap_err();
        assert!(error.contains("column `site` has a value that few rows share"), "{error}");
    }
    let levels: Vec<String> = (1000..1020).map(|value| value.to_string()).collect();
    let error = ask("y ~ value", json!({"value": levels}), json!(vec![0.0; 20])).unwrap_err();
    assert!(error.contains("column `value` has a value that few rows share"), "{error}");
    let error = ask("y ~ value", json!({"value": null}), json!([-1000.5 * 4.0, 4.0])).unwrap_err();
    assert!(error.contains("few rows have an outcome that is uncertain at these coefficients"), "{error}");
    let error = ask("y ~ value", json!({"value": null}), json!([-1000.5 * 1e6, 1e6])).unwrap_err();
    assert!(error.contains("the coefficients are far from those of a fit"), "{error}");
    assert!(ask("y ~ value", json!({"value": null}), json!([0.0, 0.0])).is_ok());
}

#[test]
fn a_model_with_as_many_coefficients_as_rows_is_refused() {
    let columns: Vec<String> = (0..12).map(|column| format!("c{column}")).collect();
    let mut text = format!("y,{}\n", columns.join(","));
    for row in 0..13_u32 {
        let cells: Vec<String> = (1..=12_u32).map(|column| (row.pow(2) * column % 31).to_string()).collect();
        text.push_str(&format!("{},{}\n", row % 2, cells.join(",")));
    }
    let formula = format!("y ~ {}", columns.join(" + "));
    let error = &Federation::new(&text, 1).run(&[1], "logistic", json!({"formula": formula})).unwrap_err()[0];
    assert!(error.contains("the model has 13 coefficients for 13 rows here"), "{error}");
}

#[test]
fn a_secure_sum_is_over_nobody_or_over_enough_at_each_twin() {
    let run = |rare: usize, site: &str| {
        let kwargs = json!({"column": "value", "where": {"column": "site", "equals": site}});
        with_rare_rows(3, rare).run(&[1, 2, 3], "secure_sum_twin", kwargs)
    };
    let assert_refused = |outcome: Result<Vec<Value>, Vec<String>>, reason: &str| {
        let errors = outcome.unwrap_err();
        assert!(errors.iter().any(|error| error.contains(reason)), "{errors:?}");
    };
    for rare in 1..5 {
        assert_refused(run(rare, "rare"), "few rows would be summed; at least 5 are needed");
        assert_refused(run(rare, "usual"), "few rows would be left out of the sum; at least 5 are needed");
    }
    assert_eq!(run(5, "rare").unwrap()[0]["total"], 1000 + 1003 + 1006 + 1009 + 1012);
    assert_eq!(run(5, "nowhere").unwrap()[0]["total"], 0);
}

#[test]
fn mistakes_of_the_caller_are_explained() {
    let federation = Federation::new(GBSG2, 3);
    let error = |method: &str, kwargs: Value| federation.run(&[1], method, kwargs).unwrap_err().remove(0);
    assert!(error("average", json!({})).contains("there is no function `average`; there are summary, "));
    assert!(error("summary_partial", json!({"colums": []})).contains("unknown field `colums`"));
    assert!(error("summary_partial", json!({"columns": ["size"]})).contains("`1.csv` has no column `size`"));
    assert!(error("summary_partial", json!({"columns": ["horTh"]})).contains("row 1: column `horTh`"));
    assert!(error("summary_partial", json!({"database": "x"})).contains("it names `default`"));
    assert!(error("summary", json!({"organizations": [9]})).contains("400: Organization is not in the collaboration"));
    assert!(error("logistic", json!({"formula": "cens = age"})).contains("there is no `~`"));
    assert!(error("logistic", json!({"formula": "horTh ~ age"})).contains("column `horTh` does not hold a number"));
    assert!(error("logistic", json!({"formula": "age ~ cens"})).contains("the outcome `age` is neither 0 nor 1"));
}

#[test]
fn a_twin_that_fails_takes_its_twins_along() {
    let federation = Federation::new(GBSG2, 2);
    // Each twin's own column is missing, or the twin of the other fails.
    let errors = federation.run(&[1, 2], "secure_sum_twin", json!({"column": "horTh"})).unwrap_err();
    assert_eq!(errors.len(), 2);
    let separated = "y,x\n".to_owned() + &"0,1\n0,2\n1,3\n1,4\n".repeat(10);
    let federation = Federation::new(&separated, 2);
    let errors = federation.run(&[1, 2], "logistic_twin", json!({"formula": "y ~ x"})).unwrap_err();
    assert!(errors.iter().any(|error| error.contains("the data separate the outcomes")), "{errors:?}");
}

#[test]
fn the_program_writes_its_result_or_says_why_not() {
    let federation = Federation::new(GBSG2, 3);
    let run = |number: i64, method: &str| {
        let input = json!({"method": method, "kwargs": {"columns": ["age"]}}).to_string();
        let output = Command::new(env!("CARGO_BIN_EXE_twinmesh-algorithms"))
            .env_clear()
            .envs(federation.variables(1, number, 1, input.as_bytes()))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(100, "summary_partial"), (Some(0), String::new()));
    let result: Value = serde_json::from_slice(&std::fs::read(federation.output(100)).unwrap()).unwrap();
    assert_eq!(result["rows"], 229);
    let (code, log) = run(101, "average");
    assert_eq!(code, Some(1));
    assert!(log.starts_with("error: function `average` failed: there is no function `average`"), "{log}");
    let output = Command::new(env!("CARGO_BIN_EXE_twinmesh-algorithms")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"error: the environment lacks `INPUT_FILE`; is this run by a node?\n");
}
