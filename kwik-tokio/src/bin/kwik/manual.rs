//! `kwik completions` and `kwik man`: what shells and `man` read about this program, made from its own definition.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use clap_complete::Shell;

use crate::failure::Failure;

/// Prints a script that has a shell complete the program's arguments
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  kwik completions bash > ~/.local/share/bash-completion/completions/kwik")]
pub(crate) struct Completions {
    /// Shell to complete for
    shell: Shell,
}

impl Completions {
    /// Prints the script of `program`.
    pub(crate) fn print(&self, mut program: clap::Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "kwik", &mut script);
        print(&script)
    }
}

/// Prints the manual page, or writes the pages of all commands into a directory
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  kwik man | man -l -\n  kwik man --dir ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Write kwik.1 and one page per command there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints or writes the pages of `program`.
    pub(crate) fn write(&self, mut program: clap::Command) -> Result<(), Failure> {
        let Some(dir) = &self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(program)
                .render(&mut page)
                .map_err(|error| Failure::io("cannot make the page", &error))?;
            return print(&page);
        };
        let failed =
            |error: io::Error| Failure::io(format_args!("cannot write in {}", dir.display()), &error);
        fs::create_dir_all(dir).map_err(failed)?;
        program.build();
        clap_mangen::generate_to(program, dir).map_err(failed)
    }
}

/// Prints to standard output; who closes the pipe has read enough.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("cannot write to standard output", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
