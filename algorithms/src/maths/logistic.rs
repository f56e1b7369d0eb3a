//! Logistic regression by summed gradients.
//!
//! Maximum likelihood by Newton's method, which for this model is iteratively reweighted least squares (McCullagh and
//! Nelder, "Generalized Linear Models", 2nd ed., §2.5). Each organization computes [`Statistics`] of its own rows at the
//! current coefficients; their sum is all that [`Irls`] needs to take the next step.

use serde::{Deserialize, Serialize};

use super::formula::Frame;

/// The relative change of the deviance at which the fit is taken as converged, as in R's `glm.control`, but small
/// enough that coefficients agree to nine digits however the rows are split.
pub const TOLERANCE: f64 = 1e-12;

/// How many steps are tried.
///
/// Newton's method needs five to eight unless the data separate the outcomes, when coefficients grow by about one in
/// each step for ever.
pub const MAX_ITERATIONS: usize = 25;

/// How far from zero a row's linear predictor may be.
///
/// At 37 a probability is 0 or 1 in all digits of a double, so the row adds nothing to the information any more. The
/// predictors of fits stay well below (22 at most in the breast cancer data, whose outcomes are nearly separated). Beyond,
/// coefficients are those of data that separate the outcomes, or are made up to cut single rows out of the sums: the
/// steeper the curve, the fewer rows lie on its slope.
pub const MAX_PREDICTOR: f64 = 100.0;

/// How small a pivot of the scaled information matrix may be before the matrix counts as singular.
const SINGULAR: f64 = 1e-11;

/// How often a step that makes the fit worse is halved.
const MAX_HALVINGS: usize = 20;

/// A reason for not getting a fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LogisticError {
    /// There is nothing to fit.
    #[error("there are no complete rows")]
    NoRows,
    /// Partial statistics do not fit the model.
    #[error("statistics for {actual} coefficients were given where the model has {expected}")]
    Shape {
        /// How many the model has.
        expected: usize,
        /// How many the statistics are for.
        actual: usize,
    },
    /// Statistics hold infinite or undefined numbers.
    #[error("the statistics are not finite; does a column hold extremely large numbers?")]
    NotFinite,
    /// A column is constant or a combination of others.
    #[error("the model is singular: `{column}` is constant or a combination of the columns before it; leave it out")]
    Singular {
        /// The first column that adds nothing.
        column: String,
    },
    /// Coefficients are not those of any fit.
    #[error(
        "the coefficients are far from those of a fit: the data separate the outcomes, so that there is no finite estimate, or they were made up"
    )]
    Extreme,
    /// Outcomes can be told apart without error, so that estimates are infinite.
    #[error(
        "the fit diverges after {iterations} iterations: the data separate the outcomes (mostly by `{column}`), so that its coefficient has no finite estimate"
    )]
    Separation {
        /// The coefficient that counts most.
        column: String,
        /// How many steps were taken.
        iterations: usize,
    },
}

/// What one organization, or a sum of several, knows at given coefficients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// How many complete rows.
    pub rows: u64,
    /// Minus twice the log likelihood.
    pub deviance: f64,
    /// The gradient of the log likelihood: `X'(y - μ)`.
    pub gradient: Vec<f64>,
    /// The upper triangle of the information matrix `X'WX`, row by row.
    pub information: Vec<f64>,
}

impl Statistics {
    /// The statistics of no rows.
    #[must_use]
    pub fn zero(coefficients: usize) -> Self {
        Self {
            rows: 0,
            deviance: 0.0,
            gradient: vec![0.0; coefficients],
            information: vec![0.0; coefficients * (coefficients + 1) / 2],
        }
    }

    /// The statistics of the rows of a frame.
    ///
    /// # Errors
    ///
    /// There are more or fewer coefficients than columns, or a linear predictor is beyond [`MAX_PREDICTOR`].
    pub fn of(frame: &Frame, coefficients: &[f64]) -> Result<Self, LogisticError> {
        let size = frame.names.len();
        if coefficients.len() != size {
            return Err(LogisticError::Shape { expected: size, actual: coefficients.len() });
        }
        let mut sum = Self::zero(size);
        sum.rows = frame.rows() as u64;
        for (x, &outcome) in frame.design.chunks_exact(size).zip(&frame.outcome) {
            let eta: f64 = x.iter().zip(coefficients).map(|(x, b)| x * b).sum();
            if eta.is_nan() || eta.abs() > MAX_PREDICTOR {
                return Err(LogisticError::Extreme);
            }
            // 1 - μ is computed for itself because it loses all digits as a difference when μ is near 1.
            let small = (-eta.abs()).exp();
            let (near, far) = (1.0 / (1.0 + small), small / (1.0 + small));
            let (mean, rest) = if eta >= 0.0 { (near, far) } else { (far, near) };
            sum.deviance += 2.0 * (small.ln_1p() + if (eta >= 0.0) == (outcome == 1.0) { 0.0 } else { eta.abs() });
            let (residual, weight) = (if outcome == 1.0 { rest } else { -mean }, mean * rest);
            let mut cell = 0;
            for (i, xi) in x.iter().enumerate() {
                sum.gradient[i] += residual * xi;
                for xj in &x[i..] {
                    sum.information[cell] += weight * xi * xj;
                    cell += 1;
                }
            }
        }
        Ok(sum)
    }

    /// How many rows' worth of uncertain outcomes stand behind the sums, at least: each row's weight `μ(1 - μ)` is at
    /// most 1/4, and they are summed in the intercept's cell of the information matrix. By Cauchy's inequality Kish's
    /// effective sample size `(Σw)²/Σw²` is no less.
    #[must_use]
    pub fn effective_rows(&self) -> f64 {
        4.0 * self.information.first().copied().unwrap_or_default()
    }

    /// Adds the statistics of other rows at the same coefficients.
    ///
    /// # Errors
    ///
    /// They are for another number of coefficients.
    pub fn add(&mut self, other: &Self) -> Result<(), LogisticError> {
        let expected = self.gradient.len();
        if other.gradient.len() != expected || other.information.len() != self.information.len() {
            return Err(LogisticError::Shape { expected, actual: other.gradient.len() });
        }
        self.rows = self.rows.saturating_add(other.rows);
        self.deviance += other.deviance;
        self.gradient.iter_mut().zip(&other.gradient).for_each(|(a, b)| *a += b);
        self.information.iter_mut().zip(&other.information).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// All numbers in one vector, for a sum over twins.
    #[must_use]
    pub fn to_vector(&self) -> Vec<f64> {
        let mut vector = vec![self.rows as f64, self.deviance];
        vector.extend(&self.gradient);
        vector.extend(&self.information);
        vector
    }

    /// The inverse of [`Statistics::to_vector`].
    ///
    /// # Errors
    ///
    /// The vector is of another length.
    pub fn from_vector(coefficients: usize, vector: &[f64]) -> Result<Self, LogisticError> {
        let mut sum = Self::zero(coefficients);
        let shape = LogisticError::Shape { expected: coefficients, actual: vector.len() };
        let Some(([rows, deviance], rest)) = vector.split_first_chunk() else { return Err(shape) };
        if rest.len() != sum.gradient.len() + sum.information.len() {
            return Err(shape);
        }
        let (gradient, information) = rest.split_at(coefficients);
        sum.rows = *rows as u64;
        sum.deviance = *deviance;
        sum.gradient.copy_from_slice(gradient);
        sum.information.copy_from_slice(information);
        Ok(sum)
    }

    fn is_finite(&self) -> bool {
        self.deviance.is_finite() && self.gradient.iter().chain(&self.information).all(|value| value.is_finite())
    }
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The coefficients in the order of the formula, the intercept first.
    pub coefficients: Vec<Coefficient>,
    /// Minus twice the log likelihood.
    pub deviance: f64,
    /// How many steps were taken.
    pub iterations: usize,
    /// How many rows were used.
    pub rows: u64,
}

/// One fitted coefficient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// The name of the matrix's column.
    pub name: String,
    /// The estimate, a log odds ratio.
    pub estimate: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// The estimate divided by its standard error.
    pub z: f64,
    /// The two-sided p-value of Wald's test that the coefficient is zero.
    pub p: f64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Compute statistics at [`Irls::coefficients`] and hand them in.
    Continue,
    /// The fit has converged.
    Done(Fit),
}

/// The iteration: asks for statistics at its coefficients until they do not change any more.
#[derive(Debug, Clone)]
pub struct Irls {
    names: Vec<String>,
    coefficients: Vec<f64>,
    step: Vec<f64>,
    deviance: Option<f64>,
    iterations: usize,
    halvings: usize,
}

impl Irls {
    /// Starts with all coefficients at zero.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        let zeros = vec![0.0; names.len()];
        Self { names, coefficients: zeros.clone(), step: zeros, deviance: None, iterations: 0, halvings: 0 }
    }

    /// Where statistics are wanted next.
    #[must_use]
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// Takes the summed statistics at [`Irls::coefficients`].
    ///
    /// # Errors
    ///
    /// The model has no unique finite estimate; see [`LogisticError`].
    pub fn handle(&mut self, sum: &Statistics) -> Result<Progress, LogisticError> {
        let (expected, actual) = (self.names.len(), sum.gradient.len());
        if actual != expected || sum.information.len() != expected * (expected + 1) / 2 {
            return Err(LogisticError::Shape { expected, actual });
        }
        if sum.rows == 0 {
            return Err(LogisticError::NoRows);
        }
        if let Some(before) = self.deviance {
            let worse = !sum.is_finite() || sum.deviance > before + TOLERANCE * (before.abs() + 0.1);
            if worse && self.halvings < MAX_HALVINGS {
                self.halvings += 1;
                for (coefficient, step) in self.coefficients.iter_mut().zip(&mut self.step) {
                    *step /= 2.0;
                    *coefficient -= *step;
                }
                return Ok(Progress::Continue);
            }
        }
        if !sum.is_finite() {
            return Err(LogisticError::NotFinite);
        }
        let factor = match Factor::of(&sum.information, expected) {
            Ok(factor) => factor,
            Err(column) if self.iterations == 0 => {
                return Err(LogisticError::Singular { column: self.names[column].clone() });
            }
            Err(_) => return Err(self.separation(&sum.information)),
        };
        let converged =
            self.deviance.is_some_and(|before| (sum.deviance - before).abs() / (sum.deviance.abs() + 0.1) < TOLERANCE);
        if converged {
            // With perfect separation the deviance itself converges, to zero.
            if sum.deviance < 1e-6 * sum.rows as f64 {
                return Err(self.separation(&sum.information));
            }
            return Ok(Progress::Done(self.fit(sum, &factor)));
        }
        if self.iterations == MAX_ITERATIONS {
            return Err(self.separation(&sum.information));
        }
        self.iterations += 1;
        self.halvings = 0;
        self.deviance = Some(sum.deviance);
        self.step = factor.solve(&sum.gradient);
        self.coefficients.iter_mut().zip(&self.step).for_each(|(coefficient, step)| *coefficient += step);
        Ok(Progress::Continue)
    }

    fn fit(&self, sum: &Statistics, factor: &Factor) -> Fit {
        let coefficients = self
            .names
            .iter()
            .zip(&self.coefficients)
            .enumerate()
            .map(|(index, (name, &estimate))| {
                let mut unit = vec![0.0; self.names.len()];
                unit[index] = 1.0;
                let standard_error = factor.solve(&unit)[index].sqrt();
                let z = estimate / standard_error;
                let p = statrs::function::erf::erfc(z.abs() / std::f64::consts::SQRT_2);
                Coefficient { name: name.clone(), estimate, standard_error, z, p }
            })
            .collect();
        Fit { coefficients, deviance: sum.deviance, iterations: self.iterations, rows: sum.rows }
    }

    /// Blames the coefficient whose last step moved the fit most.
    fn separation(&self, information: &[f64]) -> LogisticError {
        let (mut worst, mut largest, mut diagonal) = (0, -1.0, 0);
        for (index, step) in self.step.iter().enumerate() {
            let moved = step.abs() * information[diagonal].abs().sqrt();
            diagonal += self.names.len() - index;
            if moved > largest && (index > 0 || self.names.len() == 1) {
                (worst, largest) = (index, moved);
            }
        }
        LogisticError::Separation { column: self.names[worst].clone(), iterations: self.iterations }
    }
}

/// The Cholesky factor of a symmetric matrix scaled to a unit diagonal.
struct Factor {
    size: usize,
    scale: Vec<f64>,
    lower: Vec<f64>,
}

impl Factor {
    /// Factors a matrix given by its upper triangle, or names the column at which it turns out to be singular.
    fn of(upper: &[f64], size: usize) -> Result<Self, usize> {
        let mut matrix = vec![0.0; size * size];
        let mut cells = upper.iter();
        for i in 0..size {
            for (j, &cell) in (i..size).zip(cells.by_ref()) {
                matrix[j * size + i] = cell;
            }
        }
        let scale: Vec<f64> = (0..size).map(|i| matrix[i * size + i].sqrt().recip()).collect();
        if let Some(column) = scale.iter().position(|scale| !scale.is_finite()) {
            return Err(column);
        }
        let mut lower = vec![0.0; size * size];
        for j in 0..size {
            for i in j..size {
                let before: f64 = (0..j).map(|k| lower[i * size + k] * lower[j * size + k]).sum();
                let rest = matrix[i * size + j] * scale[i] * scale[j] - before;
                if i == j {
                    if rest.is_nan() || rest < SINGULAR {
                        return Err(j);
                    }
                    lower[i * size + j] = rest.sqrt();
                } else {
                    lower[i * size + j] = rest / lower[j * size + j];
                }
            }
        }
        Ok(Self { size, scale, lower })
    }

    fn solve(&self, right: &[f64]) -> Vec<f64> {
        let (size, lower) = (self.size, &self.lower);
        let mut x: Vec<f64> = right.iter().zip(&self.scale).map(|(value, scale)| value * scale).collect();
        for i in 0..size {
            let before: f64 = (0..i).map(|k| lower[i * size + k] * x[k]).sum();
            x[i] = (x[i] - before) / lower[i * size + i];
        }
        for i in (0..size).rev() {
            let after: f64 = (i + 1..size).map(|k| lower[k * size + i] * x[k]).sum();
            x[i] = (x[i] - after) / lower[i * size + i];
        }
        x.iter_mut().zip(&self.scale).for_each(|(value, scale)| *value *= scale);
        x
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        maths::{
            formula::{Coding, Formula},
            reference,
        },
        sdk::table::Table,
    };

    const GBSG2: &str = "cens ~ age + tsize + pnodes + horTh";

    fn frame(formula: &str, table: &Table) -> Frame {
        let formula: Formula = formula.parse().unwrap();
        let coding = Coding::unite([&formula.survey(table).unwrap()]).unwrap();
        formula.frame(table, &coding).unwrap()
    }

    fn part(frame: &Frame, rows: &[usize]) -> Frame {
        let size = frame.names.len();
        Frame {
            names: frame.names.clone(),
            design: rows.iter().flat_map(|row| &frame.design[row * size..][..size]).copied().collect(),
            outcome: rows.iter().map(|&row| frame.outcome[row]).collect(),
        }
    }

    fn fit(frames: &[Frame]) -> Result<Fit, LogisticError> {
        let mut irls = Irls::new(frames[0].names.clone());
        loop {
            let mut sum = Statistics::zero(frames[0].names.len());
            for frame in frames {
                sum.add(&Statistics::of(frame, irls.coefficients())?)?;
            }
            let sum = Statistics::from_vector(frames[0].names.len(), &sum.to_vector())?;
            if let Progress::Done(fit) = irls.handle(&sum)? {
                return Ok(fit);
            }
        }
    }

    fn fit_text(formula: &str, text: &str) -> Result<Fit, LogisticError> {
        fit(&[frame(formula, &Table::read("t.csv", text.as_bytes()).unwrap())])
    }

    #[track_caller]
    fn assert_reference(fit: &Fit, expected: &serde_json::Value) {
        reference::assert_close(fit.deviance, expected["deviance"].as_f64().unwrap(), 1e-9);
        for coefficient in &fit.coefficients {
            // The reference is printed with ten decimals.
            let of = |kind: &str| expected[kind][&coefficient.name].as_f64().unwrap();
            assert!((coefficient.estimate - of("coef")).abs() < 1e-9, "{coefficient:?}");
            assert!((coefficient.standard_error - of("se")).abs() < 2e-8, "{coefficient:?}");
        }
    }

    #[test]
    fn the_breast_cancer_study_matches_the_reference() {
        let frame = frame(GBSG2, &reference::gbsg2());
        let fit = fit(&[frame]).unwrap();
        assert_reference(&fit, &reference::json()["gbsg2"][format!("logistic {}", "cens ~ age+tsize+pnodes+horTh")]);
        assert_eq!((fit.rows, fit.coefficients.len()), (686, 5));
        assert!(fit.iterations < 9);
    }

    #[test]
    fn nearly_separated_outcomes_match_the_reference() {
        let formula = "benign ~ radius_mean+texture_mean+smoothness_mean";
        let frame = frame(formula, &reference::breast_cancer());
        let fit = fit(std::slice::from_ref(&frame)).unwrap();
        let estimates: Vec<f64> = fit.coefficients.iter().map(|coefficient| coefficient.estimate).collect();
        // A hundred of 569 rows are uncertain enough to count, far more than are asked for.
        assert!((100.0..130.0).contains(&Statistics::of(&frame, &estimates).unwrap().effective_rows()));
        assert_reference(&fit, &reference::json()["breast_cancer"][format!("logistic {formula}")]);
    }

    /// One binary predictor: the estimate is the log odds ratio of the 2x2 table and its variance the sum of the
    /// reciprocal counts (Woolf 1955).
    #[test]
    fn a_two_by_two_table_gives_its_log_odds_ratio() {
        let cell = |y, x, count| format!("{y},{x}\n").repeat(count);
        let text = format!("y,x\n{}{}{}{}", cell(1, 1, 30), cell(0, 1, 10), cell(1, 0, 20), cell(0, 0, 40));
        let fit = fit_text("y ~ x", &text).unwrap();
        let slope = &fit.coefficients[1];
        reference::assert_close(slope.estimate, 6_f64.ln(), 1e-10);
        reference::assert_close(slope.standard_error, (1. / 30. + 1. / 10. + 1. / 20. + 1. / 40_f64).sqrt(), 1e-8);
        assert!(slope.p < 1e-3 && slope.p > 1e-5);
    }

    #[test]
    fn a_model_without_finite_estimate_is_refused() {
        let separated = "y,x,z\n0,1,5\n0,2,3\n0,3,4\n1,4,5\n1,5,2\n1,6,4\n";
        let error = fit_text("y ~ x + z", separated).unwrap_err();
        assert!(matches!(&error, LogisticError::Separation { .. }), "{error}");
        let quasi = "y,x\n0,1\n0,2\n0,3\n1,3\n1,4\n1,5\n";
        assert!(matches!(fit_text("y ~ x", quasi), Err(LogisticError::Separation { column, .. }) if column == "x"));
        let one_outcome = "y,x\n1,1\n1,2\n1,3\n";
        assert!(matches!(fit_text("y ~ x", one_outcome), Err(LogisticError::Separation { .. })));
    }

    #[test]
    fn made_up_coefficients_are_refused_or_leave_few_effective_rows() {
        let frame = frame("cens ~ age", &reference::gbsg2());
        let steep = |slope: f64, at: f64| Statistics::of(&frame, &[-slope * at, slope]);
        // A step between two ages cuts the rows on one side out of the sums.
        assert_eq!(steep(50.0, 21.5), Err(LogisticError::Extreme));
        assert_eq!(steep(f64::NAN, 21.5), Err(LogisticError::Extreme));
        assert_eq!(steep(f64::INFINITY, 21.5), Err(LogisticError::Extreme));
        // What is left of steepness isolates the youngest patients, and is told by the weights.
        assert!(steep(1.5, 21.0).unwrap().effective_rows() < 5.0);
        assert!(steep(0.0, 0.0).unwrap().effective_rows() > 685.0);
    }

    #[test]
    fn a_redundant_column_is_named() {
        let text = "y,a,b\n0,1,2\n1,2,4\n0,3,6\n1,4,8\n0,5,10\n";
        assert_eq!(fit_text("y ~ a + b", text), Err(LogisticError::Singular { column: "b".into() }));
        let text = "y,a\n0,0\n1,0\n";
        assert_eq!(fit_text("y ~ a", text), Err(LogisticError::Singular { column: "a".into() }));
    }

    #[test]
    fn statistics_of_another_shape_are_refused() {
        let mut irls = Irls::new(vec!["const".into()]);
        assert_eq!(irls.handle(&Statistics::zero(1)), Err(LogisticError::NoRows));
        assert!(matches!(irls.handle(&Statistics::zero(2)), Err(LogisticError::Shape { expected: 1, actual: 2 })));
        assert!(Statistics::from_vector(2, &[0.0; 4]).is_err());
        assert!(Statistics::zero(1).add(&Statistics::zero(2)).is_err());
        let infinite = Statistics { rows: 1, deviance: f64::NAN, ..Statistics::zero(1) };
        assert_eq!(irls.handle(&infinite), Err(LogisticError::NotFinite));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn effective_rows_are_no_more_than_those_that_count(
            coefficients in prop::collection::vec(-0.3..0.3_f64, 2),
            rows in prop::collection::btree_set(0..686_usize, 1..60),
        ) {
            let all = frame("cens ~ age", &reference::gbsg2());
            let few = part(&all, &rows.into_iter().collect::<Vec<_>>());
            let effective = Statistics::of(&few, &coefficients).unwrap().effective_rows();
            let weights: Vec<f64> = few.design.chunks(2).map(|x| {
                let mean = 1.0 / (1.0 + (-(x[0] * coefficients[0] + x[1] * coefficients[1])).exp());
                mean * (1.0 - mean)
            }).collect();
            let (sum, squares): (f64, f64) = (weights.iter().sum(), weights.iter().map(|weight| weight * weight).sum());
            prop_assert!(effective <= few.rows() as f64 + 1e-9);
            prop_assert!(effective <= sum * sum / squares * (1.0 + 1e-9));
        }

        #[test]
        fn any_split_of_the_rows_gives_the_pooled_fit(sites in reference::split(686, 7)) {
            let all = frame(GBSG2, &reference::gbsg2());
            let frames: Vec<_> = sites.iter().map(|rows| part(&all, rows)).collect();
            let expected = &reference::json()["gbsg2"]["logistic cens ~ age+tsize+pnodes+horTh"];
            assert_reference(&fit(&frames).unwrap(), expected);
        }
    }
}
