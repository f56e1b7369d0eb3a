//! How long the texts and lists of requests may be, each said once: bodies are checked against it when they are read,
//! and the interface's description tells it.

use serde_json::{Map, Value};
use twinmesh_protocol::key::MAX_PEM_BYTES;
use twinmesh_protocol::wire::{
    ColumnRequest, ContainerTokenRequest, DatabaseDetails, FieldErrors, NewCollaboration, NewNode, NewOrganization,
    NewPeer, NewPort, NewRole, NewStudy, NewTask, NewTaskDatabase, NewTaskOrganization, NewUser, NodeDetails,
    Preprocessing, RunPatch,
};

use crate::config::secret::Secret;

/// The least and the most: characters of a text, items of a list, entries of an object, or a number itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) min: usize,
    /// `usize::MAX` where only the whole request is bounded.
    pub(crate) max: usize,
}

impl Limit {
    const fn between(min: usize, max: usize) -> Self {
        Self { min, max }
    }

    const fn up_to(max: usize) -> Self {
        Self { min: 0, max }
    }

    const fn from(min: usize) -> Self {
        Self { min, max: usize::MAX }
    }

    /// What is wrong with something of this size, in the words of stock servers.
    pub(crate) fn fault<T: Measured>(self, value: &T) -> Option<String> {
        let Self { min, max } = self;
        let size = value.size()?;
        if (min..=max).contains(&size) {
            return None;
        }
        Some(match (T::IS_NUMBER, min, max) {
            (true, _, usize::MAX) => format!("Must be greater than or equal to {min}."),
            (true, ..) => format!("Must be greater than or equal to {min} and less than or equal to {max}."),
            (false, 0, _) => format!("Longer than maximum length {max}."),
            (false, _, usize::MAX) => format!("Shorter than minimum length {min}."),
            (false, ..) => format!("Length must be between {min} and {max}."),
        })
    }
}

/// What is said of a name with control characters.
pub(crate) const CONTROL_CHARACTERS: &str = "Control characters, such as line breaks, are not allowed.";

/// What texts are to be like that are looked for.
pub(crate) const PATTERN: Limit = Limit::up_to(1024);
/// The most that a page holds.
pub(crate) const PAGE: Limit = Limit::between(1, 10_000);

/// Names (contract A.7).
pub(crate) const NAME: Limit = Limit::between(1, 128);
/// The names of tasks, which stock clients leave empty.
pub(crate) const TASK_NAME: Limit = Limit::up_to(128);
/// What else is told of somebody in a few words (contract A.7.1).
pub(crate) const SHORT: Limit = Limit::up_to(128);
/// What something is for (contract A.7.5, A.8.1).
pub(crate) const DESCRIPTION: Limit = Limit::up_to(1024);
/// Image references. A name has up to 255 characters, a tag 128, a digest 71 and a host 253.
pub(crate) const IMAGE: Limit = Limit::between(1, 1024);
/// Addresses of services.
pub(crate) const URL: Limit = Limit::up_to(1024);
/// Internet addresses of machines.
pub(crate) const IP: Limit = Limit::between(2, 45);
/// Public keys: the base64 of a PEM text.
pub(crate) const PUBLIC_KEY: Limit = Limit::up_to(MAX_PEM_BYTES.div_ceil(3) * 4);

/// The names that new users get (contract A.7.4).
pub(crate) const USERNAME: Limit = Limit::between(3, 128);
/// The mail addresses that users get.
pub(crate) const EMAIL: Limit = Limit::between(3, 256);
/// By which name somebody logs in (contract A.2.1).
pub(crate) const LOGIN_NAME: Limit = Limit::between(1, 128);
/// By which address somebody is looked for. It may be empty: clients give a name instead, files have accounts without.
pub(crate) const LOST_EMAIL: Limit = Limit::up_to(256);
/// By which name somebody is looked for.
pub(crate) const LOST_NAME: Limit = Limit::up_to(128);
/// Passwords that somebody logs in with, whatever the policy was when they were set (contract A.2.1).
pub(crate) const PASSWORD: Limit = Limit::between(1, 128);
/// New passwords (contract A.3).
pub(crate) const NEW_PASSWORD: Limit = Limit::between(8, 128);
/// Codes of a second factor (contract A.2.1).
pub(crate) const CODE: Limit = Limit::up_to(10);
/// Mailed tokens (contract A.3).
pub(crate) const RESET_TOKEN: Limit = Limit::between(1, 1024);
/// API keys in any of the forms of a UUID.
pub(crate) const API_KEY: Limit = Limit::between(32, 45);
/// Keys that callers choose for their requests.
pub(crate) const IDEMPOTENCY_KEY: Limit = Limit::between(1, 255);

/// Ids.
pub(crate) const ID: Limit = Limit::from(1);
/// Ports.
pub(crate) const PORT: Limit = Limit::between(1, u16::MAX as usize);
/// Members of a collaboration or a study.
pub(crate) const MEMBERS: Limit = Limit::between(1, 10_000);
/// Organizations that are to run a task.
pub(crate) const RECEIVERS: Limit = Limit::between(1, 10_000);
/// Inputs of runs. The most is what a request may have.
pub(crate) const INPUT: Limit = Limit::from(1);
/// Results and logs of runs. The most is what a request may have.
pub(crate) const OUTPUT: Limit = Limit::from(0);
/// Roles that somebody is given.
pub(crate) const ROLES: Limit = Limit::up_to(1000);
/// Rules that somebody or a role is given. There are 86.
pub(crate) const RULES: Limit = Limit::up_to(1000);

/// Databases of a task.
pub(crate) const DATABASES: Limit = Limit::up_to(1000);
/// Labels of databases.
pub(crate) const LABEL: Limit = Limit::between(1, 128);
/// Queries to databases.
pub(crate) const QUERY: Limit = Limit::up_to(1 << 20);
/// Sheets of workbooks.
pub(crate) const SHEET: Limit = Limit::up_to(255);
/// Steps before an algorithm sees the data.
pub(crate) const STEPS: Limit = Limit::up_to(1000);
/// Functions of such steps.
pub(crate) const FUNCTION: Limit = Limit::between(1, 255);
/// Arguments of such steps and of databases.
pub(crate) const ARGUMENTS: Limit = Limit::up_to(1000);

/// What a node may tell of one thing, and of all together.
pub(crate) const DETAILS: Limit = Limit::up_to(5000);
/// Each thing that a node tells.
pub(crate) const DETAIL: Limit = Limit::up_to(1024);
/// Addresses at which a node listens.
pub(crate) const ADDRESSES: Limit = Limit::up_to(32);
/// Each of them.
pub(crate) const ADDRESS: Limit = Limit::between(1, 256);

/// A body whose texts and lists are bounded.
pub(crate) trait Bounded {
    /// The name of its schema.
    const SCHEMA: &'static str;
    /// What bounds its properties.
    const PROPERTIES: &'static [Property];
    /// Finds what is too short or too long.
    fn judge(&self, judge: &mut Judge);
}

/// What bounds a property.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Property {
    /// Its name in JSON.
    pub(crate) name: &'static str,
    pub(crate) limit: Limit,
    /// What bounds each item of a list of texts.
    pub(crate) items: Option<Limit>,
}

/// What the interface's description is to tell of a schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described {
    pub(crate) schema: &'static str,
    pub(crate) properties: &'static [Property],
}

/// What the interface's description is to tell of a body.
pub(crate) const fn described<T: Bounded>() -> Described {
    Described { schema: T::SCHEMA, properties: T::PROPERTIES }
}

/// What is too short or too long in a body, by field; empty when nothing is.
pub(crate) fn faults(body: &impl Bounded) -> FieldErrors {
    let mut judge = Judge::default();
    body.judge(&mut judge);
    judge.errors
}

/// How many faults of one body are told.
const MAX_FAULTS: usize = 100;

/// Collects what is too short or too long, in little memory whatever the body.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    errors: FieldErrors,
    /// Where, as `databases[0].`.
    within: String,
}

impl Judge {
    /// Judges one property.
    /// Whether it is as it should be.
    pub(crate) fn size(&mut self, name: &str, value: &impl Measured, limit: Limit) -> bool {
        let Some(fault) = limit.fault(value) else { return true };
        if self.errors.len() < MAX_FAULTS {
            self.errors.entry(format!("{}{name}", self.within)).or_default().push(fault);
        }
        false
    }

    /// Judges each item of a list.
    pub(crate) fn each<T: Measured>(&mut self, name: &str, list: &impl Listed<T>, limit: Limit) {
        for (at, item) in list.items().iter().enumerate().filter(|(_, item)| limit.fault(*item).is_some()) {
            if self.errors.len() >= MAX_FAULTS {
                return;
            }
            self.size(&format!("{name}[{at}]"), item, limit);
        }
    }

    /// Judges what stands in each item of a list.
    pub(crate) fn nested<T: Bounded>(&mut self, name: &str, list: &impl Listed<T>) {
        for (at, item) in list.items().iter().enumerate() {
            let before = self.within.len();
            self.within.push_str(&format!("{name}[{at}]."));
            item.judge(self);
            self.within.truncate(before);
        }
    }
}

/// Something that has a size.
pub(crate) trait Measured {
    /// Whether it is a number.
    const IS_NUMBER: bool = false;
    /// Characters, items, entries, or the number itself; `None` when there is nothing.
    fn size(&self) -> Option<usize>;
}

impl Measured for &str {
    fn size(&self) -> Option<usize> {
        Some(self.chars().count())
    }
}

impl Measured for String {
    fn size(&self) -> Option<usize> {
        self.as_str().size()
    }
}

impl Measured for Secret {
    fn size(&self) -> Option<usize> {
        self.reveal().size()
    }
}

impl Measured for u16 {
    const IS_NUMBER: bool = true;

    fn size(&self) -> Option<usize> {
        Some((*self).into())
    }
}

impl Measured for i64 {
    const IS_NUMBER: bool = true;

    fn size(&self) -> Option<usize> {
        Some(usize::try_from(*self).unwrap_or_default())
    }
}

impl<T> Measured for Vec<T> {
    fn size(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl Measured for Map<String, Value> {
    fn size(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<T: Measured> Measured for Option<T> {
    const IS_NUMBER: bool = T::IS_NUMBER;

    fn size(&self) -> Option<usize> {
        self.as_ref().and_then(T::size)
    }
}

/// A list that may be absent.
pub(crate) trait Listed<T> {
    /// Its items.
    fn items(&self) -> &[T];
}

impl<T> Listed<T> for Vec<T> {
    fn items(&self) -> &[T] {
        self
    }
}

impl<T> Listed<T> for Option<Vec<T>> {
    fn items(&self) -> &[T] {
        self.as_deref().unwrap_or_default()
    }
}

/// `Type as "Schema" { field: LIMIT; list: LIMIT, each LIMIT; list: LIMIT, nested; field as "json": LIMIT, told; }`
///
/// `nested`: the items are bounded themselves. `told`: somebody else refuses it, in words of their own.
macro_rules! bounded {
    ($type:ty as $schema:literal {
        $($field:ident $(as $json:literal)?: $limit:ident $(, $manner:ident $($item:ident)?)?;)*
    }) => {
        impl $crate::limits::Bounded for $type {
            const SCHEMA: &'static str = $schema;
            const PROPERTIES: &'static [$crate::limits::Property] = &[$($crate::limits::Property {
                name: $crate::limits::bounded!(@name $field $($json)?),
                limit: $crate::limits::$limit,
                items: $crate::limits::bounded!(@items $($manner $($item)?)?),
            }),*];

            #[allow(unused_variables, reason = "some are bounded elsewhere")]
            fn judge(&self, judge: &mut $crate::limits::Judge) {
                $($crate::limits::bounded!(
                    @judge judge, $crate::limits::bounded!(@name $field $($json)?), self.$field, $limit
                    $(, $manner $($item)?)?
                );)*
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $json:literal) => { $json };
    (@items) => { None };
    (@items each $item:ident) => { Some($crate::limits::$item) };
    (@items $manner:ident) => { None };
    (@judge $judge:ident, $name:expr, $value:expr, $limit:ident) => {
        let _ = $judge.size($name, &$value, $crate::limits::$limit);
    };
    (@judge $judge:ident, $name:expr, $value:expr, $limit:ident, told) => {};
    (@judge $judge:ident, $name:expr, $value:expr, $limit:ident, nested) => {{
        if $judge.size($name, &$value, $crate::limits::$limit) {
            $judge.nested($name, &$value);
        }
    }};
    (@judge $judge:ident, $name:expr, $value:expr, $limit:ident, each $item:ident) => {{
        if $judge.size($name, &$value, $crate::limits::$limit) {
            $judge.each($name, &$value, $crate::limits::$item);
        }
    }};
}
pub(crate) use bounded;

bounded!(NewOrganization as "NewOrganization" {
    name: NAME;
    address1: SHORT;
    address2: SHORT;
    zipcode: SHORT;
    country: SHORT;
    domain: SHORT;
    public_key: PUBLIC_KEY;
});
bounded!(NewCollaboration as "NewCollaboration" {
    name: NAME;
    organization_ids: MEMBERS;
});
bounded!(NewStudy as "NewStudy" {
    name: NAME;
    organization_ids: MEMBERS;
});
bounded!(NewNode as "NewNode" {
    name: NAME;
});
bounded!(NodeDetails as "NodeDetails" {
    allowed_algorithms: DETAILS, each DETAIL;
    allowed_users: DETAILS;
    allowed_orgs: DETAILS;
    databases: DETAILS, nested;
});
bounded!(DatabaseDetails as "DatabaseDetails" {
    label: LABEL;
    kind as "type": SHORT;
    columns: DETAILS, each DETAIL;
});
bounded!(NewPeer as "NewPeer" {
    addresses: ADDRESSES, each ADDRESS;
});
bounded!(NewUser as "NewUser" {
    username: USERNAME;
    password: NEW_PASSWORD, told;
    email: EMAIL;
    firstname: SHORT;
    lastname: SHORT;
    roles: ROLES;
    rules: RULES;
});
bounded!(NewRole as "NewRole" {
    name: NAME;
    description: DESCRIPTION;
    rules: RULES;
});
bounded!(NewTask as "NewTask" {
    name: TASK_NAME;
    description: DESCRIPTION;
    image: IMAGE;
    server_url: URL;
    organizations: RECEIVERS, nested;
    databases: DATABASES, nested;
});
bounded!(NewTaskOrganization as "NewTaskOrganization" {
    input: INPUT, told;
});
bounded!(NewTaskDatabase as "NewTaskDatabase" {
    label: LABEL;
    query: QUERY;
    sheet_name: SHEET;
    preprocessing: STEPS, nested;
    arguments: ARGUMENTS;
});
bounded!(Preprocessing as "Preprocessing" {
    function: FUNCTION;
    parameters: ARGUMENTS;
});
bounded!(ColumnRequest as "ColumnRequest" {
    db_label: LABEL;
    organizations: RECEIVERS, nested;
    query: QUERY;
    sheet_name: SHEET;
});
bounded!(RunPatch as "RunPatch" {
    result: OUTPUT;
    log: OUTPUT;
});
bounded!(NewPort as "NewPort" {
    port: PORT;
    label: SHORT;
});
bounded!(ContainerTokenRequest as "ContainerTokenRequest" {
    image: IMAGE;
});

/// The bodies of the protocol.
pub(crate) const WIRE: &[Described] = &[
    described::<NewOrganization>(),
    described::<NewCollaboration>(),
    described::<NewStudy>(),
    described::<NewNode>(),
    described::<NodeDetails>(),
    described::<DatabaseDetails>(),
    described::<NewPeer>(),
    described::<NewUser>(),
    described::<NewRole>(),
    described::<NewTask>(),
    described::<NewTaskOrganization>(),
    described::<NewTaskDatabase>(),
    described::<Preprocessing>(),
    described::<ColumnRequest>(),
    described::<RunPatch>(),
    described::<NewPort>(),
    described::<ContainerTokenRequest>(),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn few_faults_are_told_of_a_body_that_is_nothing_but_faults() {
        let receiver = json!({"id": 1, "input": ""});
        let body = |databases: usize| {
            let database = json!({"label": "", "preprocessing": vec![json!({"function": ""}); 1000]});
            let body = json!({"image": "i", "organizations": [receiver], "databases": vec![database; databases]});
            serde_json::from_value::<NewTask>(body).unwrap()
        };
        assert_eq!(faults(&body(1000)).len(), MAX_FAULTS);
        // Of a list that is too long itself nothing else is told.
        let too_many = faults(&body(1001));
        assert_eq!(too_many.keys().filter(|field| field.starts_with("databases")).collect::<Vec<_>>(), ["databases"]);
    }

    #[test]
    fn what_is_too_long_is_named_by_its_path() {
        let body = json!({
            "image": "", "description": "ä".repeat(1024), "organizations": [],
            "databases": [{"label": "x"}, {"label": "x".repeat(129), "preprocessing": [{"function": ""}]}],
        });
        let body: NewTask = serde_json::from_value(body).unwrap();
        let faults: Vec<_> = faults(&body).into_iter().collect();
        let expected = [
            ("databases[1].label", "Length must be between 1 and 128."),
            ("databases[1].preprocessing[0].function", "Length must be between 1 and 255."),
            ("image", "Length must be between 1 and 1024."),
            ("organizations", "Length must be between 1 and 10000."),
        ];
        assert_eq!(faults, expected.map(|(field, text)| (field.to_owned(), vec![text.to_owned()])));
    }

    #[test]
    fn what_fits_and_what_is_absent_has_no_fault() {
        for length in [0, 128] {
            let role = json!({"name": "x".repeat(128), "description": "x".repeat(length * 8), "rules": []});
            let role: NewRole = serde_json::from_value(role).unwrap();
            assert!(faults(&role).is_empty(), "{length}");
        }
        let absent: NewNode = serde_json::from_value(json!({"collaboration_id": 1})).unwrap();
        assert!(faults(&absent).is_empty());
        assert!(ID.fault(&0_i64).is_some() && ID.fault(&-1_i64).is_some() && ID.fault(&1_i64).is_none());
        assert!(PORT.fault(&0_u16).is_some() && PORT.fault(&u16::MAX).is_none());
    }
}
