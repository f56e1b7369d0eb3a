//! The table of actions.

use std::fmt;

use twinmesh_protocol::id::{
    AlgorithmStoreId, CollaborationId, NodeId, ObjectId, OrganizationId, RoleId, RunId, StudyId, TaskId, UserId,
};

use super::actor::{Actor, Kind, Who};
use super::rule::{Operation, Resource, Scope};
use super::target::Target;

/// Something that is asked for by name.
pub(crate) trait Action: fmt::Debug {
    /// What it is done to.
    type Subject: Copy + fmt::Debug + Send;
    /// In words, after "may they".
    const NAME: &'static str;
    /// Who may.
    const REQUIREMENT: Requirement;
}

/// Who may do an action: a caller of kind `who`, for whom one of `always` holds or whose rule covers the target, and
/// for whom all of `besides` hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requirement {
    pub(crate) who: &'static [Kind],
    pub(crate) rule: Option<(Resource, Operation)>,
    /// The scopes in which the rule counts.
    pub(crate) scopes: &'static [Scope],
    pub(crate) always: &'static [Condition],
    pub(crate) besides: &'static [Condition],
}

/// A relation of the caller to the target that no rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The caller is the user, or made it.
    Owner,
    /// It is the caller's organization's.
    Member,
    /// It is not the caller's organization's.
    NotMember,
    /// The caller is the node, or the node that works on it.
    TheNode,
    /// The caller is the run, or made it.
    TheRun,
    /// There is no public key yet, or the caller is no node whose API key somebody was given who may not replace it.
    OwnHands,
    /// It is one of the caller's roles.
    OwnRole,
    /// It is built in, and the caller sees the roles of the organization at least.
    BuiltInRole,
    /// It is in one of the caller's collaborations.
    Collaboration,
}

impl Condition {
    pub(crate) fn holds(self, actor: &Actor, target: &Target) -> bool {
        match self {
            Self::Owner => actor.user().is_some() && target.owner == actor.user(),
            Self::Member => target.organizations.contains(&actor.organization),
            Self::NotMember => !target.organizations.contains(&actor.organization),
            Self::TheNode => actor.node().is_some() && target.node == actor.node(),
            Self::TheRun => actor.container().is_some_and(|container| target.run == Some(container.run)),
            Self::OwnHands => match actor.who {
                Who::Node { in_own_hands, .. } => in_own_hands || target.keyless,
                Who::User { .. } | Who::Container(_) => true,
            },
            Self::OwnRole => match (&actor.who, target.role) {
                (Who::User { roles, .. }, Some(role)) => roles.contains(&role),
                (Who::User { .. } | Who::Node { .. } | Who::Container(_), _) => false,
            },
            Self::BuiltInRole => {
                target.built_in && super::holds_at_least(actor, Resource::Role, Operation::View, Scope::Organization)
            }
            Self::Collaboration => !target.collaborations.is_disjoint(&actor.collaborations),
        }
    }
}

const ANYONE: &[Kind] = &[Kind::User, Kind::Node, Kind::Container];
const DAEMONS: &[Kind] = &[Kind::User, Kind::Node];
const USER: &[Kind] = &[Kind::User];
const NODE: &[Kind] = &[Kind::Node];
const CONTAINER: &[Kind] = &[Kind::Container];
const RUNNERS: &[Kind] = &[Kind::Node, Kind::Container];

const ALL_SCOPES: &[Scope] = &Scope::ALL;
const GLOBAL: &[Scope] = &[Scope::Global];
const COLLABORATION_UP: &[Scope] = &[Scope::Collaboration, Scope::Global];

/// `Name(Subject) "words": who, rule, scopes [, always [..]] [, besides [..]];`
macro_rules! actions {
    ($(
        $name:ident($subject:ty) $words:literal:
        $who:ident, $(rule $resource:ident $operation:ident in $scopes:ident)? $(no $rule:ident)?
        $(, always [$($always:ident),*])? $(, besides [$($besides:ident),*])?;
    )*) => {
        $(
            #[doc = concat!("May they ", $words, "?")]
            #[derive(Debug, Clone, Copy)]
            pub(crate) struct $name;

            impl Action for $name {
                type Subject = $subject;
                const NAME: &'static str = $words;
                const REQUIREMENT: Requirement = {
                    #[allow(unused_mut, unused_assignments, reason = "most actions leave some of these out")]
                    let (mut rule, mut scopes, mut always, mut besides):
                        (Option<(Resource, Operation)>, &[Scope], &[Condition], &[Condition]) = (None, &[], &[], &[]);
                    $(rule = Some((Resource::$resource, Operation::$operation)); scopes = $scopes;)?
                    $(always = &[$(Condition::$always),*];)?
                    $(besides = &[$(Condition::$besides),*];)?
                    Requirement { who: $who, rule, scopes, always, besides }
                };
            }
        )*

        /// Every action with its requirement, for the permission matrix.
        #[cfg(test)]
        pub(crate) const ACTIONS: &[(&str, Requirement)] = &[$(($name::NAME, $name::REQUIREMENT)),*];
    };
}

actions! {
    ViewOrganization(OrganizationId) "see an organization": ANYONE, rule Organization View in ALL_SCOPES;
    CreateOrganization(()) "create an organization": USER, rule Organization Create in ALL_SCOPES;
    EditOrganization(OrganizationId) "change an organization": DAEMONS, rule Organization Edit in ALL_SCOPES;
    ReplacePublicKey(OrganizationId) "replace an organization's public key":
        DAEMONS, rule Organization Edit in ALL_SCOPES, besides [Member, OwnHands];
    DeleteOrganization(OrganizationId) "delete an organization":
        USER, rule Organization Delete in ALL_SCOPES, besides [NotMember];

    ViewCollaboration(CollaborationId) "see a collaboration": ANYONE, rule Collaboration View in ALL_SCOPES;
    CreateCollaboration(()) "create a collaboration": USER, rule Collaboration Create in ALL_SCOPES;
    EditCollaboration(CollaborationId) "change a collaboration": USER, rule Collaboration Edit in ALL_SCOPES;
    ReplaceMembers(CollaborationId) "replace a collaboration's organizations":
        USER, rule Collaboration Edit in GLOBAL;
    DeleteCollaboration(CollaborationId) "delete a collaboration": USER, rule Collaboration Delete in ALL_SCOPES;

    ViewNode(NodeId) "see a node": DAEMONS, rule Node View in ALL_SCOPES, always [TheNode];
    CreateNode((CollaborationId, OrganizationId)) "create a node": USER, rule Node Create in ALL_SCOPES;
    EditNode(NodeId) "change a node": DAEMONS, rule Node Edit in ALL_SCOPES;
    RenewApiKey(NodeId) "give a node another API key": USER, rule Node Edit in ALL_SCOPES;
    DeleteNode(NodeId) "delete a node": USER, rule Node Delete in ALL_SCOPES;
    PublishPeer(NodeId) "tell how a node is reached": NODE, no rule, always [TheNode];
    PublishDetails(NodeId) "tell what a node offers": NODE, no rule, always [TheNode];
    ViewPeers(CollaborationId) "see how nodes are reached": DAEMONS, rule Node View in ALL_SCOPES, always [Collaboration];

    ViewUser(UserId) "see a user": USER, rule User View in ALL_SCOPES, always [Owner];
    CreateUser(OrganizationId) "create a user": USER, rule User Create in ALL_SCOPES;
    EditUser(UserId) "change a user": USER, rule User Edit in ALL_SCOPES;
    ChangePassword(UserId) "change a password": USER, no rule, always [Owner];
    DeleteUser(UserId) "delete a user": USER, rule User Delete in ALL_SCOPES;

    ViewRole(RoleId) "see a role": USER, rule Role View in ALL_SCOPES, always [OwnRole, BuiltInRole];
    CreateRole(OrganizationId) "create a role": USER, rule Role Create in ALL_SCOPES;
    EditRole(RoleId) "change a role": USER, rule Role Edit in ALL_SCOPES;
    DeleteRole(RoleId) "delete a role": USER, rule Role Delete in ALL_SCOPES;

    ViewStudy(StudyId) "see a study": ANYONE, rule Study View in ALL_SCOPES;
    CreateStudy(CollaborationId) "create a study": USER, rule Study Create in ALL_SCOPES;
    EditStudy(StudyId) "change a study": USER, rule Study Edit in ALL_SCOPES;
    DeleteStudy(StudyId) "delete a study": USER, rule Study Delete in ALL_SCOPES;

    ViewAlgorithmStore(AlgorithmStoreId) "see an algorithm store": DAEMONS, rule Collaboration View in ALL_SCOPES;
    LinkAlgorithmStore(Option<CollaborationId>) "link an algorithm store":
        USER, rule Collaboration Edit in ALL_SCOPES;
    EditAlgorithmStore(AlgorithmStoreId) "change an algorithm store": USER, rule Collaboration Edit in ALL_SCOPES;
    UnlinkAlgorithmStore(AlgorithmStoreId) "unlink an algorithm store":
        USER, rule Collaboration Edit in ALL_SCOPES;

    ViewTask(TaskId) "see a task": ANYONE, rule Task View in ALL_SCOPES;
    CreateTask(CollaborationId) "create a task": USER, rule Task Create in ALL_SCOPES;
    CreateSubtask(CollaborationId) "create a subtask": CONTAINER, no rule, always [Collaboration];
    DeleteTask(TaskId) "delete a task": USER, rule Task Delete in ALL_SCOPES;
    KillTask(TaskId) "kill a task": USER, rule Event Send in COLLABORATION_UP;
    KillNodeTasks(NodeId) "kill all tasks at a node": USER, rule Event Send in ALL_SCOPES;

    ViewRun(RunId) "see a run and its result": ANYONE, rule Run View in ALL_SCOPES;
    ReportRun(RunId) "report on a run": NODE, no rule, always [TheNode];
    OpenPort(RunId) "register a run's ports": NODE, no rule, always [TheNode];
    IssueContainerToken(RunId) "have a run's token": NODE, no rule, always [TheNode];
    ViewTwinAddresses(RunId) "see where twins are reached": CONTAINER, no rule, always [Collaboration];

    UploadInput(OrganizationId) "upload the inputs of tasks": USER, rule Task Create in ALL_SCOPES;
    UploadPayload(OrganizationId) "upload what runs send": RUNNERS, no rule, always [Member];
    HandleUpload(ObjectId) "go on with an upload, or discard it": ANYONE, no rule, always [Owner, TheNode, TheRun];

    FollowEvents(CollaborationId) "follow events": DAEMONS, rule Event Receive in ALL_SCOPES, always [TheNode];
}
