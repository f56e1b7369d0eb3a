use serde::{Deserialize, Serialize};

/// A reference to one related object (contract A.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Link {
    /// The related object's id.
    pub id: i64,
    /// Its path from the host's root.
    pub link: String,
    /// The verbs of that path.
    pub methods: Vec<String>,
}

/// Related objects: the path that lists them, or with `include=` the objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Many<T> {
    /// The path with its query, from the host's root.
    Link(String),
    /// The objects themselves.
    Items(Vec<T>),
}

/// A related object: its link, or with `include=` the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum One<T> {
    /// The link.
    Link(Link),
    /// The object itself.
    Item(Box<T>),
}

/// A page of a list (contract A.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The objects of this page.
    pub data: Vec<T>,
    /// Where the other pages are.
    #[serde(default)]
    pub links: PageLinks,
}

/// Paths with queries from the host's root; absent where there is no such page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PageLinks {
    /// The first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// This page.
    #[serde(default, rename = "self", skip_serializing_if = "Option::is_none")]
    pub this: Option<String>,
    /// The page after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}
