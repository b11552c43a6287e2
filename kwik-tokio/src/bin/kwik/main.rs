//! `kwik`: KWIK on the command line.

mod demo;
mod failure;
mod get;
mod keys;
mod manual;
mod mirror;
mod pace;
mod positioned;
mod protocol;
mod serve;
mod service;
mod size;
mod store;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use self::failure::Failure;

/// QUIC With Intelligent Konnections: one client stream, fed by several servers at once.
#[derive(Debug, Parser)]
#[command(name = "kwik", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Completions(manual::Completions),
    Demo(demo::Args),
    Get(get::Args),
    Keygen(keys::Args),
    Man(manual::Man),
    Mirror(mirror::Args),
    Serve(serve::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return answer(&error),
    };
    let done = match cli.command {
        Command::Completions(args) => args.print(Cli::command()),
        Command::Demo(args) => demo::run(&args),
        Command::Get(args) => return get::run(&args),
        Command::Keygen(args) => keys::run(&args),
        Command::Man(args) => args.write(Cli::command()),
        Command::Mirror(args) => mirror::run(args),
        Command::Serve(args) => serve::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            failure.exit_code()
        }
    }
}

/// Prints help where it was asked for, otherwise what is wrong with the arguments, on one line.
fn answer(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let printed = error.print().is_ok();
        return if asked && printed { ExitCode::SUCCESS } else { Failure::input("").exit_code() };
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim);
    let mut line = lines.next().unwrap_or_default().to_owned();
    if line.ends_with(':') {
        // Missing arguments stand on lines of their own.
        for named in lines.take_while(|named| !named.is_empty()) {
            line = format!("{line} {named}");
        }
    }
    complain(line.strip_prefix("error: ").unwrap_or(&line));
    Failure::input("").exit_code()
}

fn complain(line: &str) {
    // If standard error is closed too, the exit code is all that is left to say.
    writeln!(io::stderr(), "error: {line}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_every_command_go_together() {
        Cli::command().debug_assert();
    }
}
