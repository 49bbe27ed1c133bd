//! What a person sees.

use std::{
    cell::RefCell,
    fmt::{self, Display},
    io::{self, IsTerminal as _, Write},
    net::SocketAddr,
    time::Duration,
};

use super::{
    client::Mode,
    script::{Act, LIMIT},
    tally::{Tally, Told, Who},
};

/// Writes what happens as it happens; in colour on a terminal, unless `NO_COLOR` is set.
pub(super) struct View<W = io::Stdout> {
    out: RefCell<W>,
    colour: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

struct Styled<T> {
    what: T,
    style: Option<Style>,
}

impl View {
    pub(super) fn stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out: RefCell::new(io::stdout()),
            colour: wanted && io::stdout().is_terminal(),
        }
    }
}

impl<W: Write> View<W> {
    pub(super) fn opening(&self, primary: &str, backup: &str, gateway: &SocketAddr) {
        self.line(format_args!(
            "{}\n\n  client ─► gateway http://{gateway}/v1 ─┬─► primary {primary}\n  \
             {:width$}└─► backup  {backup}",
            self.style(Style::Bold, "A primary that fails, and nobody notices"),
            "",
            width = gateway.to_string().chars().count() + 30,
        ));
    }

    pub(super) fn act(&self, act: &Act) {
        self.line(format_args!("\n{}", self.style(Style::Bold, act.title)));
    }

    pub(super) fn request(&self, act: &Act, mode: Mode, primary_asked: bool, told: &Told) {
        let met = match (primary_asked, act.meets) {
            (false, _) => "not asked",
            (true, "") => "healthy",
            (true, meets) => meets,
        };
        let mode = mode.name();
        match told {
            Told::Answered { by, added } => {
                let (mark, style, who) = match by {
                    Who::Primary => ("✓", Style::Green, "primary answered"),
                    Who::Backup => ("✓", Style::Yellow, "backup answered"),
                };
                self.line(format_args!(
                    "  {} {mode:<9} primary: {met:<22} {:<17} {}",
                    self.style(Style::Green, mark),
                    self.style(style, who),
                    self.style(Style::Dim, format_args!("+{}", Ms(*added))),
                ));
            }
            Told::Failed(why) => self.line(format_args!(
                "  {} {mode:<9} primary: {met:<22} {}",
                self.style(Style::Red, "✗"),
                self.style(Style::Red, format_args!("failed: {why}")),
            )),
        }
    }

    pub(super) fn interrupted(&self) {
        self.line(format_args!("\nStopped."));
    }

    pub(super) fn summary(&self, acts: &[(Act, Tally)], total: &Tally, took: Duration) {
        let head = format!(
            "{:<12}{:>10}{:>12}{:>12}{:>9}{:>14}{:>12}",
            "primary", "requests", "by primary", "by backup", "failed", "added p50", "p99"
        );
        self.line(format_args!("\n{}", self.style(Style::Bold, head)));
        for (act, tally) in acts {
            self.row(act.name, tally, None);
        }
        self.row("all", total, Some(Style::Bold));
        let legend = format!(
            "added: time to the first token beyond that of a model asked directly; the primary is given \
             {LIMIT}\nnot asked: left alone for a while, for a limit or for failing again and again"
        );
        self.line(format_args!("{}", self.style(Style::Dim, legend)));
        let verdict = match total.failed {
            0 => self.style(
                Style::Green,
                format!("No request failed, in {:.1} s.", took.as_secs_f64()),
            ),
            failed => self.style(
                Style::Red,
                format!("{failed} of {} requests failed.", total.requests()),
            ),
        };
        self.line(format_args!("\n{verdict}"));
    }

    fn row(&self, name: &str, tally: &Tally, style: Option<Style>) {
        let ms = |percent| {
            let added = tally.percentile(percent);
            added.map_or_else(|| "-".to_owned(), |added| Ms(added).to_string())
        };
        let failed = match tally.failed {
            0 => format!("{:>9}", 0),
            failed => self.style(Style::Red, format!("{failed:>9}")).to_string(),
        };
        let row = format!(
            "{name:<12}{:>10}{:>12}{:>12}{failed}{:>14}{:>12}",
            tally.requests(),
            tally.by_primary,
            tally.by_backup,
            ms(50),
            ms(99),
        );
        let style = style.filter(|_| self.colour);
        self.line(format_args!("{}", Styled { what: row, style }));
    }

    pub(super) fn trouble(&self, error: &dyn Display) {
        let text = format!("The demonstration could not run: {error}");
        self.line(format_args!("{}", self.style(Style::Red, text)));
    }

    fn style<T>(&self, style: Style, what: T) -> Styled<T> {
        Styled {
            what,
            style: self.colour.then_some(style),
        }
    }

    fn line(&self, line: fmt::Arguments<'_>) {
        let mut out = self.out.borrow_mut();
        // A reader that went away, as `head` does, is no reason to fail.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

impl<T: Display> Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded without the escapes, which take no room.
        let width = f.width().unwrap_or(0);
        let text = self.what.to_string();
        let Some(style) = self.style else {
            return write!(f, "{text:<width$}");
        };
        let code = match style {
            Style::Bold => 1,
            Style::Dim => 2,
            Style::Green => 32,
            Style::Yellow => 33,
            Style::Red => 31,
        };
        write!(f, "\x1b[{code}m{text:<width$}\x1b[0m")
    }
}

/// Milliseconds, as precise as matters.
struct Ms(Duration);

impl Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_secs_f64() * 1000.0;
        if ms < 10.0 {
            write!(f, "{ms:.1} ms")
        } else {
            write!(f, "{ms:.0} ms")
        }
    }
}
