//! The command line `twinmesh`: a noun, a verb, and what the library does with them.

mod account;
mod args;
mod argument;
mod exit;
mod federation;
mod find;
mod home;
mod keys;
mod members;
mod output;
mod paint;
mod table;
mod task;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::filter::LevelFilter;

use crate::api::Api;
use crate::clock;
use crate::key::{KeyFileError, read_private_key};
use crate::pins::PinStore;
use crate::researcher::Client;
use args::{Cli, Command, EventVerb, Global};
use exit::Exit;
use home::Home;
use output::Output;

/// Runs the command line that these arguments make, the program's name first.
///
/// Prints data to stdout and everything else to stderr; the code says what became of it (see `twinmesh --help`).
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. That nobody reads them is no failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    start_log(cli.global.verbose);
    let output = Output::new(&cli.global, clock::now());
    match dispatch(cli, &output).await {
        Ok(exit) => exit.into(),
        Err(error) if exit::is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            let (exit, hint) = exit::judge(&error);
            output.error(&error, hint.as_deref());
            exit.into()
        }
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // Fails when the process has a log already, which then holds.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .try_init();
}

async fn dispatch(cli: Cli, output: &Output) -> anyhow::Result<Exit> {
    let Cli { global, command } = cli;
    if let Command::Completions { shell } = command {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "twinmesh", &mut text);
        output.text(&String::from_utf8_lossy(&text))?;
        return Ok(Exit::Done);
    }
    let context = Context { home: Home::new(&global)?, output, global };
    match command {
        Command::Completions { .. } => {}
        Command::Login(login) => account::log_in(&context, login).await?,
        Command::Logout => account::log_out(&context)?,
        Command::Status => return account::status(&context).await,
        Command::Key(verb) => keys::run(&context, verb).await?,
        Command::Organization(verb) => federation::organization(&context, verb).await?,
        Command::Collaboration(verb) => federation::collaboration(&context, verb).await?,
        Command::Node(verb) => members::node(&context, verb).await?,
        Command::User(verb) => members::user(&context, verb).await?,
        Command::Role(verb) => members::role(&context, verb).await?,
        Command::Rule(verb) => members::rule(&context, verb).await?,
        Command::Study(verb) => federation::study(&context, verb).await?,
        Command::Task(verb) => return task::task(&context, verb).await,
        Command::Run(verb) => task::run(&context, verb).await?,
        Command::Result(verb) => return task::result(&context, verb).await,
        Command::Event(EventVerb::Follow { after, count }) => task::follow(&context, after, count).await?,
    }
    Ok(Exit::Done)
}

/// What every command needs.
struct Context<'a> {
    home: Home,
    output: &'a Output,
    global: Global,
}

impl Context<'_> {
    /// The interface, as the user who logged in.
    fn api(&self) -> anyhow::Result<Api> {
        self.home.api()
    }

    /// The pinned keys for the coordinator of the log-in.
    fn pins(&self) -> anyhow::Result<PinStore> {
        Ok(PinStore::open(self.home.pins_path()?)?)
    }

    /// The user who logged in, with the private key if there is one.
    async fn client(&self) -> anyhow::Result<Client> {
        let key = match read_private_key(&self.home.key_path()) {
            Ok(key) => Some(key),
            // A file that was asked for must be there.
            Err(KeyFileError::Missing { .. }) if self.global.key.is_none() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Client::new(self.api()?, key, self.pins()?).await?)
    }
}
