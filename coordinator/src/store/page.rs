//! Which part of a list is wanted, and in which order.

/// Which way a column sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// Which page is asked for, and in which order. What asks over HTTP for one is read in `http/page.rs`.
#[derive(Debug, Clone)]
pub(crate) struct PageRequest {
    /// From 1.
    pub(crate) page: i64,
    pub(crate) per_page: i64,
    pub(crate) sort: Vec<(String, Direction)>,
    /// Whether the caller named a page or its size.
    pub(crate) asked: bool,
}

impl PageRequest {
    /// Everything on one page, in the list's own order.
    pub(crate) fn all() -> Self {
        Self { page: 1, per_page: i64::MAX, sort: Vec::new(), asked: true }
    }

    /// Everything up to `cap` on the first page, unless the caller named a page or its size (contract F.1-2).
    pub(crate) fn or_all(mut self, cap: i64) -> Self {
        if !self.asked {
            self.per_page = cap;
        }
        self
    }

    /// Everything on the first page, whatever was asked.
    pub(crate) fn everything(self, count: usize) -> Self {
        Self { page: 1, per_page: i64::try_from(count.max(1)).unwrap_or(i64::MAX), ..self }
    }

    pub(crate) fn sort(&self) -> &[(String, Direction)] {
        &self.sort
    }

    pub(crate) fn limit(&self) -> i64 {
        self.per_page
    }

    pub(crate) fn offset(&self) -> i64 {
        (self.page - 1).saturating_mul(self.per_page)
    }
}
