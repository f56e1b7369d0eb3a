//! Pages of lists, as contract A.1.1 has them.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use twinmesh_protocol::wire::{Page, PageLinks};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::params::{Params, encode, invalid};
use super::problem::Problem;
use crate::limits::PAGE;
pub(crate) use crate::store::page::{Direction, PageRequest};

/// How many a page holds unless asked otherwise.
const PER_PAGE: i64 = 10;
/// How many it holds at the most.
const MOST: i64 = PAGE.max as i64;

impl PageRequest {
    /// Reads `page`, `per_page` and `sort`, whose columns must be among `sortable`.
    pub(crate) fn read(params: &Params, sortable: &[(&str, &str)]) -> Result<Self, Problem> {
        let number = |name| match params.get::<i64>(name)? {
            Some(number) if number < 1 => Err(invalid(name, "use a whole number from 1")),
            number => Ok(number),
        };
        let (page, per_page) = (number("page")?, number("per_page")?);
        let mut sort: Vec<(String, Direction)> = Vec::new();
        // A `+` in a query may stand for a space.
        for word in params.text("sort").unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, direction) = match word.strip_prefix('-') {
                Some(name) => (name, Direction::Down),
                None => (word.strip_prefix('+').unwrap_or(word), Direction::Up),
            };
            if !sortable.iter().any(|(known, _)| *known == name) {
                let known: Vec<&str> = sortable.iter().map(|(known, _)| *known).collect();
                return Err(invalid("sort", format!("`{name}` is not one of {}", known.join(", "))));
            }
            // A second time it would decide nothing.
            if !sort.iter().any(|(known, _)| known == name) {
                sort.push((name.to_owned(), direction));
            }
        }
        Ok(Self {
            page: page.unwrap_or(1),
            // Whoever wants more finds it by the links.
            per_page: per_page.unwrap_or(PER_PAGE).min(MOST),
            sort,
            asked: page.is_some() || per_page.is_some(),
        })
    }

    /// The page's answer: envelope, links and headers.
    pub(crate) fn answer<T: Serialize>(&self, params: &Params, data: Vec<T>, total: i64) -> Response {
        let last = total.div_euclid(self.per_page) + i64::from(total.rem_euclid(self.per_page) > 0);
        let link = |page: i64| link(params, page);
        let links = PageLinks {
            first: Some(link(1)),
            previous: (self.page > 1).then(|| link(self.page - 1)),
            this: Some(link(self.page)),
            next: (self.page < last).then(|| link(self.page + 1)),
            last: (total > 0).then(|| link(last)),
        };
        let header = [
            ("first", &links.first),
            ("previous", &links.previous),
            ("self", &links.this),
            ("next", &links.next),
            ("last", &links.last),
        ]
        .into_iter()
        .filter_map(|(name, link)| link.as_ref().map(|link| format!("<{link}>; rel={name}")))
        .collect::<Vec<_>>()
        .join(",");

        let mut response = Json(Page { data, links }).into_response();
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("total-count"), total.into());
        if let Ok(value) = HeaderValue::from_str(&header) {
            headers.insert(header::LINK, value);
        }
        let exposed = HeaderValue::from_static("total-count, Link");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        response
    }
}

impl IntoParams for PageRequest {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let number = |default: i64| {
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).default(Some(json!(default)))
        };
        let text = ObjectBuilder::new().schema_type(Type::String);
        [
            ("page", "Which page".to_owned(), number(1)),
            (
                "per_page",
                format!("How many a page holds, {MOST} at the most: the link `next` leads on"),
                number(PER_PAGE),
            ),
            ("sort", "The columns to sort by".to_owned(), text),
        ]
        .map(|(name, what, schema)| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .description(Some(what))
                .schema(Some(schema))
                .build()
        })
        .into()
    }
}

/// The same request for another page: `page` is set in its place or appended.
fn link(params: &Params, page: i64) -> String {
    let page = page.to_string();
    let mut seen = false;
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for (name, value) in params.pairs() {
        if name == "page" {
            if !seen {
                pairs.push((name, &page));
            }
            seen = true;
        } else {
            pairs.push((name, value));
        }
    }
    if !seen {
        pairs.push(("page", &page));
    }
    let query: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    format!("{}?{}", params.path(), query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(query: &str, total: i64) -> (String, String) {
        let params = Params::parse("/api/rule", query);
        let request = PageRequest::read(&params, &[("id", "id")]).unwrap();
        let response = request.answer::<i64>(&params, vec![], total);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        (header("total-count"), header("link"))
    }

    #[test]
    fn the_links_are_those_of_the_contracts_vector() {
        let (count, link) = headers("per_page=2&page=3&sort=-id", 86);
        assert_eq!(count, "86");
        assert_eq!(
            link,
            "</api/rule?per_page=2&page=1&sort=-id>; rel=first,</api/rule?per_page=2&page=2&sort=-id>; rel=previous,\
             </api/rule?per_page=2&page=3&sort=-id>; rel=self,</api/rule?per_page=2&page=4&sort=-id>; rel=next,\
             </api/rule?per_page=2&page=43&sort=-id>; rel=last"
        );
    }

    #[test]
    fn there_is_no_page_after_the_last_and_no_last_of_nothing() {
        assert!(!headers("page=9", 86).1.contains("rel=next"));
        assert!(headers("page=8", 86).1.contains("page=9>; rel=next"));
        assert!(!headers("page=99", 86).1.contains("rel=next"));
        let (_, link) = headers("", 0);
        assert!(!link.contains("rel=last") && link.contains("</api/rule?page=1>; rel=first"), "{link}");
    }

    #[test]
    fn a_page_holds_so_many_and_the_links_lead_to_the_rest() {
        let params = Params::parse("/api/rule", "per_page=100000");
        let request = PageRequest::read(&params, &[("id", "id")]).unwrap();
        assert_eq!((request.limit(), request.offset()), (10_000, 0));
        let (_, link) = headers("per_page=100000&page=2", 25_000);
        assert!(link.contains("per_page=100000&page=3>; rel=next"), "{link}");
        assert!(link.contains("per_page=100000&page=3>; rel=last"), "{link}");
        let params = Params::parse("/api/rule", "per_page=100000&page=3");
        assert_eq!(PageRequest::read(&params, &[("id", "id")]).unwrap().offset(), 20_000);
    }

    #[test]
    fn a_column_sorts_once() {
        let params = Params::parse("/api/rule", &format!("sort=-id,name{}", ",id,-name".repeat(1000)));
        let request = PageRequest::read(&params, &[("id", "id"), ("name", "name")]).unwrap();
        assert_eq!(request.sort(), [("id".to_owned(), Direction::Down), ("name".to_owned(), Direction::Up)]);
    }

    #[test]
    fn a_page_that_is_none_is_refused() {
        for query in ["page=0", "page=x", "per_page=-1", "sort=password", "page=99999999999999999999"] {
            let params = Params::parse("/api/rule", query);
            assert!(PageRequest::read(&params, &[("id", "id")]).is_err(), "{query}");
        }
        let params = Params::parse("/", "page=9223372036854775807&per_page=9223372036854775807&sort=+id,-id");
        let request = PageRequest::read(&params, &[("id", "id")]).unwrap();
        assert_eq!(request.offset(), i64::MAX);
        request.answer::<i64>(&params, vec![], i64::MAX);
    }
}
