//! `chelsea serve --config FILE`: the flags of the verb as a file in TOML.
//!
//! A setting is a flag without its hyphens, and its value is what the flag takes, read by the same parser: the two cannot
//! come apart. What the command line gives as well is left out of the file's, and so is what a flag given there conflicts
//! with. The rest goes behind the command line, which is then read as if it had been typed.

use super::Cli;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// The verb that has a file.
const VERB: &str = "serve";
/// Flags that are about the file or the command, and no settings.
const NO_SETTINGS: &[&str] = &["config", "print-config", "help", "version", "verbose"];

/// The command line, with what its file of settings adds. Ends the program where clap does: for help, and for what makes
/// no sense.
pub fn parse() -> Cli {
    match parse_from(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => error.exit(),
            Err(error) => clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error:#}\n")).exit(),
        },
    }
}

fn parse_from(mut line: Vec<OsString>) -> Result<Cli> {
    // What is wrong with the command line is found out when it is read with the file's settings.
    let first = Cli::command().ignore_errors(true).try_get_matches_from(&line);
    let given = first.as_ref().ok().and_then(|matches| matches.subcommand_matches(VERB));
    if let Some(given) = given
        && let Some(file) = given.get_one::<PathBuf>("config")
    {
        line.extend(settings(file, given)?);
    }
    let matches = Cli::command().try_get_matches_from(&line)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let super::Command::Serve(args) = &mut cli.command
        && let Some(held) = matches.subcommand_matches(VERB)
        && args.print_config
    {
        args.settings = as_file(held);
    }
    Ok(cli)
}

fn verb() -> Command {
    let mut command = Cli::command();
    command.build();
    command.find_subcommand(VERB).cloned().unwrap_or_else(|| Command::new(VERB))
}

/// What a file of settings adds to a command line that gives `given`.
fn settings(file: &Path, given: &ArgMatches) -> Result<Vec<OsString>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read settings from {}", file.display()))?;
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    let place = |at: usize| format!("{}, line {}", file.display(), line_of(at));
    let table = DeTable::parse(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        anyhow!("{}: {}", place(at), error.message())
    })?;
    let verb = verb();
    let is_given = |arg: &Arg| {
        let source = |arg: &Arg| given.value_source(arg.get_id().as_str());
        source(arg) == Some(ValueSource::CommandLine)
    };
    let mut added: Vec<(usize, Vec<OsString>)> = Vec::new();
    for (key, value) in table.get_ref() {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        let known = |arg: &&Arg| arg.get_long() == Some(name) && !NO_SETTINGS.contains(&name);
        let Some(arg) = verb.get_arguments().find(known) else { bail!("{}: {}", place(at), unknown(name)) };
        let flags = flags(arg, name, value.get_ref(), &text[value.span()])
            .with_context(|| format!("{}: `{name}`", place(at)))?;
        check(&flags, name).with_context(|| place(at))?;
        let clashes = |other: &Arg| {
            let ids =
                |of: &Arg| verb.get_arg_conflicts_with(of).iter().map(|arg| arg.get_id().clone()).collect::<Vec<_>>();
            ids(arg).contains(other.get_id()) || ids(other).contains(arg.get_id())
        };
        if !is_given(arg) && !verb.get_arguments().any(|other| is_given(other) && clashes(other)) {
            added.push((at, flags));
        }
    }
    added.sort_by_key(|added| added.0);
    Ok(added.into_iter().flat_map(|(_, flags)| flags).collect())
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = NO_SETTINGS.iter().copied().filter(|&other| other == name).collect();
    if let [flag] = known.as_slice() {
        return format!("`{flag}` is a flag of the command line alone");
    }
    // The parser knows best which flag resembles it most.
    let error = Cli::command().try_get_matches_from(["chelsea", VERB, &format!("--{name}=x")]).err();
    let suggested = match error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg)) {
        Some(ContextValue::String(flag)) => format!(": did you mean `{}`?", flag.trim_start_matches('-')),
        _ => format!(": they are the flags of `chelsea {VERB} --help` without their hyphens"),
    };
    format!("there is no setting `{name}`{suggested}")
}

/// A setting as it is written on a command line.
fn flags(arg: &Arg, name: &str, value: &DeValue<'_>, written: &str) -> Result<Vec<OsString>> {
    let flag = |value: &str| OsString::from(format!("--{name}={value}"));
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    Ok(match value {
        DeValue::Boolean(is_on) if matches!(arg.get_action(), ArgAction::SetTrue) => {
            if *is_on {
                vec![format!("--{name}").into()]
            } else {
                Vec::new()
            }
        }
        _ if matches!(arg.get_action(), ArgAction::SetTrue) => bail!("is true or false"),
        DeValue::String(text) => vec![flag(text)],
        // As they are written: no digit changes on its way.
        DeValue::Integer(_) | DeValue::Float(_) => vec![flag(&written.replace('_', ""))],
        DeValue::Array(values) if is_list => {
            let text = |value: &toml::Spanned<DeValue<'_>>| value.get_ref().as_str().map(flag);
            values.iter().map(text).collect::<Option<_>>().context("is a list of texts")?
        }
        other => {
            let wanted = if is_list { "a text, a number or a list of texts" } else { "a text or a number" };
            bail!("is of type {}, and takes {wanted}", other.type_str())
        }
    })
}

/// Whether the flag's own parser takes the value.
fn check(flags: &[OsString], name: &str) -> Result<()> {
    let model = (name != "model").then(|| "--model=x".into());
    let line = ["chelsea".into(), VERB.into()].into_iter().chain(model).chain(flags.iter().cloned());
    let Err(error) = Cli::command().try_get_matches_from(line) else { return Ok(()) };
    let said = error.render().to_string();
    bail!("{}", said.lines().next().unwrap_or_default().trim_start_matches("error: "))
}

/// All settings as they hold, as a file: those that nobody gave as comments, since some cannot stand together. Keys are left
/// out.
fn as_file(held: &ArgMatches) -> String {
    let mut out = format!("# chelsea {VERB} --config THIS_FILE\n");
    for arg in verb().get_arguments() {
        let Some(name) = arg.get_long().filter(|name| !NO_SETTINGS.contains(name)) else { continue };
        let id = arg.get_id().as_str();
        let values: Vec<String> = held
            .get_raw(id)
            .map(|values| values.map(|value| value.to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        let line = match values.as_slice() {
            [] => format!("# {name} ="),
            _ if name == "api-key" => format!("# {name} = ({} given, not shown)", values.len()),
            [value] if !is_list => format!("{name} = {}", written(value)),
            values => format!("{name} = [{}]", values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")),
        };
        let is_given = line.starts_with('#') || held.value_source(id) == Some(ValueSource::CommandLine);
        let _infallible = writeln!(out, "{}{line}", if is_given { "" } else { "# " });
    }
    out
}

/// A number as it is, anything else as a text. What only looks like a number, such as `007`, is no number in TOML.
fn written(value: &str) -> String {
    let is_number = DeValue::parse(value).is_ok_and(|value| value.get_ref().is_integer() || value.get_ref().is_float());
    if is_number && !value.contains(char::is_whitespace) { value.to_owned() } else { quoted(value) }
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command as Verb, ServeArgs};
    use chelsea_kv::Budget;

    /// The settings that a file and the rest of a command line come to.
    fn read(text: &str, line: &[&str]) -> Result<ServeArgs> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chelsea.toml");
        std::fs::write(&file, text).unwrap();
        let config: OsString = file.into();
        let whole = ["chelsea", "serve", "--config"].map(OsString::from).into_iter().chain([config]);
        let cli = parse_from(whole.chain(line.iter().map(OsString::from)).collect())?;
        let Verb::Serve(args) = cli.command else { panic!("another verb") };
        Ok(*args)
    }

    const WHOLE: &str = "model = \"smollm2\"  # a short name\nport = 9_000\nhost = \"127.0.0.2\"\nkv-memory = \"4GiB\"\n\
                         kv-budget = \"10%\"\nallow-origin = [\"https://a.example\", \"https://b.example\"]\n";

    #[test]
    fn a_file_says_what_flags_say_and_flags_win() {
        let args = read(WHOLE, &[]).unwrap();
        assert_eq!(
            (args.model.name().as_ref(), args.port, args.host.to_string().as_str()),
            ("smollm2", 9000, "127.0.0.2")
        );
        assert_eq!((args.kv_memory, args.cache.asked_budget()), (Some(4 << 30), Some(Budget::ByteFraction(0.1))));
        assert_eq!(args.allow_origin, ["https://a.example", "https://b.example"]);
        let args = read(WHOLE, &["-p", "1234", "--allow-origin", "https://c.example", "-m", "other"]).unwrap();
        assert_eq!((args.model.name().as_ref(), args.port, args.max_running), ("other", 1234, 64));
        assert_eq!(
            args.allow_origin,
            ["https://c.example"],
            "a list of the command line's takes the place of the file's"
        );
        // A flag that contradicts the file's goes before it, on whichever side that is declared.
        let args = read(WHOLE, &["--keep", "0.5"]).unwrap();
        assert_eq!(args.cache.asked_budget(), Some(Budget::EntryFraction(0.5)));
        let args = read("model = \"x\"\nkeep = 0.5\n", &["--kv-budget", "10%"]).unwrap();
        assert_eq!(args.cache.asked_budget(), Some(Budget::ByteFraction(0.1)));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, words) in [
            ("model = \"x\"\n\nkv_budget = \"10%\"\n", 3, "did you mean `kv-budget`?"),
            ("frobnicate = 1\n", 1, "there is no setting `frobnicate`"),
            ("model = \"x\"\nport = 70000\n", 2, "70000"),
            ("model = \"x\"\nport = [1]\n", 2, "`port`: is of type array"),
            ("model = \"x\"\nkv-memory = \"4 furlongs\"\n", 2, "512MiB"),
            ("[server]\nport = 1\n", 1, "no setting `server`"),
            ("model = \"x\"\nport = \n", 2, "line 2"),
            ("port = 1\nport = 2\n", 2, "duplicate key"),
            ("config = \"other.toml\"\n", 1, "command line alone"),
            ("verbose = 1\n", 1, "command line alone"),
        ] {
            let error = format!("{:#}", read(text, &[]).unwrap_err());
            assert!(
                error.contains(&format!("chelsea.toml, line {line}: ")) && error.contains(words),
                "{text}: {error}"
            );
        }
        let error = read("port = 1\n", &[]).unwrap_err();
        assert!(error.downcast::<clap::Error>().is_ok(), "there is no model: clap says so");
        let missing = parse_from(["chelsea", "serve", "--config", "none-such.toml"].map(OsString::from).to_vec());
        assert!(format!("{:#}", missing.unwrap_err()).contains("cannot read settings from none-such.toml"));
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let line = ["--print-config", "--api-key", "secret", "--served-model-name", "a \"name\"", "--shelf", "007"];
        let args = read(WHOLE, &line).unwrap();
        let text = args.settings.clone();
        assert!(text.contains("port = 9000\n") && text.contains("# api-key = (1 given, not shown)\n"), "{text}");
        assert!(text.contains("# max-running = 64\n") && !text.contains("secret"), "{text}");
        let again = read(&text, &["--print-config"]).unwrap();
        assert_eq!(again.settings.replace("# api-key =\n", "# api-key = (1 given, not shown)\n"), text);
        assert_eq!(again.served_model_name.as_deref(), Some("a \"name\""));
    }
}
