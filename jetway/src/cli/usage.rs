//! Arguments that make no sense, in one line: they come from a shell, a unit or a compose file, and stand among a role's
//! other log lines. Help and version are printed as clap has them.

use clap::error::ErrorKind;
use jetway_service::telemetry;

use super::output;

/// As shells and clap have it for wrong usage.
const EXIT_USAGE: i32 = 2;

/// Says it and ends the process.
pub fn end(error: &clap::Error) -> ! {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            telemetry::last_words(&one_line(&error.render().to_string()));
            std::process::exit(EXIT_USAGE)
        }
    }
}

/// Without the usage, which `--help` has too.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = words.join(" ");
    output::shown(&format!("{} (--help tells more)", line.strip_prefix("error: ").unwrap_or(&line)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Arguments;

    fn said(words: &[&str]) -> String {
        let words = ["jetway"].iter().chain(words);
        one_line(&Arguments::try_parse_from(words).unwrap_err().render().to_string())
    }

    #[test]
    fn wrong_arguments_are_one_line_that_names_them() {
        let controller = ["controller", "--db", "postgres://u@h/n"];
        for (flags, expect) in [
            (&[][..], "the following required arguments were not provided: --cluster <CLUSTER>"),
            (&["--cluster", "no spaces\nor lines"], "'--cluster <CLUSTER>'"),
            (&["--cluster", ""], "--cluster <CLUSTER>"),
            (&["--cluster", "c", "--listen", "nonsense"], "invalid value 'nonsense' for '--listen <LISTEN>'"),
            (&["--cluster", "c", "--clutser", "c"], "unexpected argument '--clutser'"),
        ] {
            let said = said(&[&controller[..], flags].concat());
            assert!(said.contains(expect) && !said.contains('\n') && !said.contains("Usage"), "{said}");
        }
        assert!(said(&["contrller"]).contains("unrecognized subcommand 'contrller'"));
        assert!(said(&["stop"]).contains("SESSION"));
        assert!(said(&["stop", "--all", "desk"]).contains("cannot be used with"));
    }
}
