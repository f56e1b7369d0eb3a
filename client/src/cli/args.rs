//! The words of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use twinmesh_protocol::id::{EventSequence, RoleId, RuleId, RunId, TaskId};

use super::argument::{Argument, parse_argument, parse_duration, parse_sequence};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the work failed: a task, a run, a check
  2  the command line is wrong
  3  the coordinator cannot be reached
  4  not allowed, or not logged in
  5  not found

Files: the log-in, the private key and the pinned keys of organizations live in
$TWINMESH_HOME, else $XDG_CONFIG_HOME/twinmesh, else ~/.config/twinmesh.

Example:
  twinmesh login https://coordinator.example.org --username ada
  twinmesh task create --collaboration trial --image twinmesh/builtin:0.1.0 \\
      --function summary --organization hospital-a --database default --wait";

const SHORT_EXAMPLE: &str = "\
Example:
  twinmesh login https://coordinator.example.org --username ada
  twinmesh status";

/// Ask questions of data that stays where it is.
#[derive(Debug, Parser)]
#[command(name = "twinmesh", version, after_help = SHORT_EXAMPLE, after_long_help = EXIT_CODES)]
#[command(propagate_version = true, disable_help_subcommand = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Print JSON with the interface's field names; streams print one object a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(super) color: Color,
    /// The folder of the log-in, the private key and the pinned keys
    #[arg(long, global = true, env = "TWINMESH_HOME", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) home: Option<PathBuf>,
    /// The file of the organization's private key, if not in the home folder
    #[arg(long, global = true, env = "TWINMESH_KEY", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) key: Option<PathBuf>,
    /// Tell more on stderr; twice tells everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Log in and keep the token
    Login(Login),
    /// Forget the token
    Logout,
    /// Tell on one screen who and where I am
    Status,
    /// The private key of my organization
    #[command(subcommand)]
    Key(Key),
    /// Parties that hold data, ask questions, or both
    #[command(subcommand)]
    Organization(OrganizationVerb),
    /// Organizations that work together
    #[command(subcommand)]
    Collaboration(CollaborationVerb),
    /// Organizations' ends of a collaboration
    #[command(subcommand)]
    Node(NodeVerb),
    /// People
    #[command(subcommand)]
    User(UserVerb),
    /// Named sets of rules
    #[command(subcommand)]
    Role(RoleVerb),
    /// What may be done to what, in which scope
    #[command(subcommand)]
    Rule(RuleVerb),
    /// Some organizations of a collaboration
    #[command(subcommand)]
    Study(StudyVerb),
    /// Questions
    #[command(subcommand)]
    Task(TaskVerb),
    /// A task at one organization
    #[command(subcommand)]
    Run(RunVerb),
    /// Answers
    #[command(subcommand)]
    Result(ResultVerb),
    /// What happens
    #[command(subcommand)]
    Event(EventVerb),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  twinmesh completions bash > ~/.local/share/bash-completion/completions/twinmesh"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinmesh login https://coordinator.example.org --username ada")]
pub(super) struct Login {
    /// The coordinator's address; the one of the last log-in if not given
    #[arg(env = "TWINMESH_SERVER", value_name = "ADDRESS", value_hint = ValueHint::Url)]
    pub(super) server: Option<String>,
    /// My user name; asked for on a terminal if not given
    #[arg(long, short, env = "TWINMESH_USERNAME", value_name = "NAME")]
    pub(super) username: Option<String>,
    /// Read the password from stdin (else from TWINMESH_PASSWORD, else asked for)
    #[arg(long)]
    pub(super) password_stdin: bool,
    /// The code of my authenticator, where the coordinator wants one; asked for on a terminal if not given
    #[arg(long, value_name = "CODE")]
    pub(super) mfa_code: Option<String>,
    /// A further authority for the coordinator's TLS certificate (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca: Option<PathBuf>,
}

/// Says yes beforehand.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Yes {
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make the private key, or keep the one there is
    #[command(after_help = "Example:\n  twinmesh key create")]
    Create {
        /// Replace the key there is: what was sealed to it can never be opened again
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// Print the public key and its fingerprint
    Show,
    /// Make the coordinator show this key for my organization
    Upload {
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum OrganizationVerb {
    /// List organizations
    List {
        /// Only those of this collaboration (name or id)
        #[arg(long, short, value_name = "COLLABORATION")]
        collaboration: Option<String>,
    },
    /// Show one organization
    Get {
        /// Name or id
        organization: String,
    },
    /// Make an organization
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        details: OrganizationDetails,
    },
    /// Change an organization
    Update {
        /// Name or id
        organization: String,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        details: OrganizationDetails,
    },
    /// List the public keys an organization has had, newest first
    #[command(after_help = "Example:\n  twinmesh organization keys hospital-a")]
    Keys {
        /// Name or id
        organization: String,
    },
    /// Delete an organization
    Delete {
        /// Name or id
        organization: String,
        /// Also delete its nodes, users, tasks and runs
        #[arg(long)]
        dependents: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// Show, replace or forget the pinned key of an organization
    #[command(after_help = "Example:\n  twinmesh organization pin hospital-a\n  \
        twinmesh organization pin hospital-a --fingerprint '0f1e 2d3c …'")]
    Pin {
        /// Name or id; all pins if not given
        organization: Option<String>,
        /// Pin the key that the coordinator shows, if it has this fingerprint (spaces do not matter)
        #[arg(long, value_name = "TEXT", requires = "organization")]
        fingerprint: Option<String>,
        /// Forget the pin; the next key seen of a member from the first sight on is pinned
        #[arg(long, requires = "organization", conflicts_with = "fingerprint")]
        forget: bool,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Args)]
pub(super) struct OrganizationDetails {
    /// Its Internet domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Its country
    #[arg(long)]
    pub(super) country: Option<String>,
    /// First line of its postal address
    #[arg(long)]
    pub(super) address1: Option<String>,
    /// Second line of its postal address
    #[arg(long)]
    pub(super) address2: Option<String>,
    /// Its postal code
    #[arg(long)]
    pub(super) zipcode: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CollaborationVerb {
    /// List collaborations
    List,
    /// Show one collaboration
    Get {
        /// Name or id
        collaboration: String,
    },
    /// Make a collaboration; encrypted unless told otherwise
    Create {
        /// Its name
        name: String,
        /// An organization of it (name or id); repeat for each
        #[arg(long = "organization", short, required = true, value_name = "ORGANIZATION")]
        organizations: Vec<String>,
        /// Do not encrypt inputs and results: the coordinator can read them
        #[arg(long)]
        plain: bool,
    },
    /// Add an organization to a collaboration
    AddOrganization {
        /// Name or id of the collaboration
        collaboration: String,
        /// Name or id of the organization
        organization: String,
    },
    /// Delete a collaboration
    Delete {
        /// Name or id
        collaboration: String,
        /// Also delete its nodes, studies and tasks
        #[arg(long)]
        dependents: bool,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeVerb {
    /// List nodes
    List {
        /// Only those of this collaboration (name or id)
        #[arg(long, short, value_name = "COLLABORATION")]
        collaboration: Option<String>,
    },
    /// Show one node
    Get {
        /// Name or id
        node: String,
    },
    /// Register a node and print its API key, which is shown only this once
    Create {
        /// Its collaboration (name or id)
        #[arg(long, short, value_name = "COLLABORATION")]
        collaboration: String,
        /// Its organization (name or id); mine if not given
        #[arg(long, short, value_name = "ORGANIZATION")]
        organization: Option<String>,
        /// Its name
        #[arg(long)]
        name: Option<String>,
    },
    /// Delete a node
    Delete {
        /// Name or id
        node: String,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum UserVerb {
    /// List users
    List {
        /// Only those of this organization (name or id)
        #[arg(long, short, value_name = "ORGANIZATION")]
        organization: Option<String>,
    },
    /// Show one user
    Get {
        /// Name or id
        user: String,
    },
    /// Make a user
    #[command(after_help = "Example:\n  twinmesh user create ada --email ada@example.org --role Researcher")]
    Create {
        /// The log-in name: 3 to 128 characters, a letter first
        username: String,
        /// Mail address
        #[arg(long)]
        email: String,
        /// First name
        #[arg(long, default_value = "")]
        firstname: String,
        /// Last name
        #[arg(long, default_value = "")]
        lastname: String,
        /// Their organization (name or id); mine if not given
        #[arg(long, short, value_name = "ORGANIZATION")]
        organization: Option<String>,
        /// A role of theirs (name or id); repeat for each
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A rule of theirs besides; repeat for each
        #[arg(long = "rule", value_name = "ID")]
        rules: Vec<RuleId>,
        /// Read the password from stdin (else from TWINMESH_NEW_PASSWORD, else asked for)
        #[arg(long)]
        password_stdin: bool,
    },
    /// Delete a user
    Delete {
        /// Name or id
        user: String,
        /// Also delete their tasks
        #[arg(long)]
        dependents: bool,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RoleVerb {
    /// List roles
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum RuleVerb {
    /// List rules
    List {
        /// Only those of this role
        #[arg(long, value_name = "ID")]
        role: Option<RoleId>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum StudyVerb {
    /// List studies
    List {
        /// Only those of this collaboration (name or id)
        #[arg(long, short, value_name = "COLLABORATION")]
        collaboration: Option<String>,
    },
    /// Make a study
    Create {
        /// Its name
        name: String,
        /// Its collaboration (name or id)
        #[arg(long, short, value_name = "COLLABORATION")]
        collaboration: String,
        /// An organization of it (name or id); repeat for each
        #[arg(long = "organization", short, required = true, value_name = "ORGANIZATION")]
        organizations: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TaskVerb {
    /// Ask a question
    Create(Box<TaskCreate>),
    /// List tasks, newest first
    List {
        /// Only those of this collaboration (name or id)
        #[arg(long, short, value_name = "COLLABORATION")]
        collaboration: Option<String>,
        /// Only those with this status
        #[arg(long)]
        status: Option<String>,
        /// Also those that central functions made
        #[arg(long)]
        subtasks: bool,
    },
    /// Show one task with its runs
    Get {
        /// The task
        task: TaskId,
    },
    /// Print the status of a task
    Status {
        /// The task
        task: TaskId,
    },
    /// Wait until a task has ended
    Wait {
        /// The task
        task: TaskId,
    },
    /// End a task and its subtasks
    Kill {
        /// The task
        task: TaskId,
        #[command(flatten)]
        yes: Yes,
    },
    /// Delete a task with its runs, subtasks and results
    Delete {
        /// The task
        task: TaskId,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  twinmesh task create --collaboration trial --image twinmesh/builtin:0.1.0 \\\n      \
    --function summary --organization hospital-a --database default --argument columns='[\"age\"]' --wait"
)]
pub(super) struct TaskCreate {
    /// The collaboration (name or id)
    #[arg(long, short, value_name = "COLLABORATION")]
    pub(super) collaboration: String,
    /// A study of it (name or id)
    #[arg(long, value_name = "STUDY")]
    pub(super) study: Option<String>,
    /// Who is to run it (name or id); repeat for each. All if not given
    #[arg(long = "organization", short, value_name = "ORGANIZATION")]
    pub(super) organizations: Vec<String>,
    /// The image reference
    #[arg(long, short)]
    pub(super) image: String,
    /// The function to call
    #[arg(long, short)]
    pub(super) function: String,
    /// A named argument; the value is JSON, or else text. Repeat for each
    #[arg(long = "argument", short, value_name = "NAME=VALUE", value_parser = parse_argument)]
    pub(super) arguments: Vec<Argument>,
    /// A file with a JSON object of named arguments; `-` is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) input: Option<PathBuf>,
    /// The label of a database it may read; repeat for each
    #[arg(long = "database", short, value_name = "LABEL")]
    pub(super) databases: Vec<String>,
    /// A name for people
    #[arg(long)]
    pub(super) name: Option<String>,
    /// What it is for
    #[arg(long)]
    pub(super) description: Option<String>,
    /// A function that it may call at all organizations; repeat for each. For a task at one organization FUNCTION_partial
    /// and partial_FUNCTION if not given
    #[arg(long = "delegate", value_name = "FUNCTION")]
    pub(super) delegate: Vec<String>,
    /// Allow no subtasks
    #[arg(long, conflicts_with = "delegate")]
    pub(super) no_subtasks: bool,
    /// How long it may wait for its nodes (as in 90s, 30m, 12h, 7d)
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    pub(super) valid_for: Duration,
    /// Wait for the results and print them
    #[arg(long, short)]
    pub(super) wait: bool,
    /// Show what would be asked, and of whom, without asking
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum RunVerb {
    /// List the runs of a task
    List {
        /// The task
        #[arg(long, short)]
        task: TaskId,
    },
    /// Print what a run wrote, or why it was refused
    Logs {
        /// The run
        run: RunId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ResultVerb {
    /// List the results of a task, unopened
    List {
        /// The task
        #[arg(long, short)]
        task: TaskId,
    },
    /// Open, check and print the results of a task
    #[command(after_help = "Example:\n  twinmesh result get --task 12 --output result.json")]
    Get {
        /// The task
        #[arg(long, short)]
        task: TaskId,
        /// Where the task was made (name or id); needed where it is neither signed nor made from here
        #[arg(long)]
        collaboration: Option<String>,
        /// Write them as JSON to a file that only I may read
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum EventVerb {
    /// Print what happens, as it happens
    Follow {
        /// Begin behind this event rather than with the next one; 0 is before the first
        #[arg(long, value_name = "SEQUENCE", value_parser = parse_sequence)]
        after: Option<EventSequence>,
        /// Stop after so many events
        #[arg(long, value_name = "NUMBER")]
        count: Option<u64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
