//! Reading TOML so that whatever is wrong is said with its key, its line and what was expected.
//!
//! All problems of a file are gathered, not just the first. Values are not quoted unless they are
//! one of a few words: somebody will paste a key where the name of its variable belongs.

use std::{cell::RefCell, fmt, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError(Vec<Problem>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    line: usize,
    key: String,
    what: String,
}

/// A file being read, and the problems found so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

/// A table whose keys are taken one by one; what is left over is unknown.
pub(super) struct Table<'a> {
    reader: &'a Reader<'a>,
    path: String,
    line: usize,
    entries: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

/// A value and where it is.
#[derive(Clone)]
pub(super) struct Value<'a> {
    reader: &'a Reader<'a>,
    path: String,
    line: usize,
    value: &'a DeValue<'a>,
}

/// Something that is built from optional keys, all of which are looked at, even after a wrong one.
pub(super) struct Built<C> {
    config: C,
    is_right: bool,
}

/// The longest duration that makes sense anywhere: a day. More is a unit mixed up.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: RefCell::new(Vec::new()),
        }
    }

    /// Parses the file. A file that is not TOML gives a single problem.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| self.syntax(&error))
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        // Only the message: the rendered error quotes the line, which may hold a secret.
        ConfigError(vec![Problem {
            line: self.line(error.span().map_or(0, |span| span.start)),
            key: String::new(),
            what: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
        }])
    }

    pub(super) const fn root(&'a self, table: &'a DeTable<'a>) -> Table<'a> {
        Table {
            reader: self,
            path: String::new(),
            line: 1,
            entries: table,
            known: Vec::new(),
        }
    }

    /// All is read: gives `value` if nothing was wrong.
    pub(super) fn finish<T>(&self, value: Option<T>) -> Result<T, ConfigError> {
        let mut problems = self.problems.take();
        problems.sort();
        problems.dedup();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigError(problems)),
        }
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn problem(&self, line: usize, key: &str, what: String) {
        self.problems.borrow_mut().push(Problem {
            line,
            key: key.to_owned(),
            what,
        });
    }
}

// === impl Table ===

impl<'a> Table<'a> {
    /// The value of `key`, if it is there.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let (_, value) = self.entries.get_key_value(key)?;
        Some(self.value(key, value))
    }

    /// The value of `key`, which must be there.
    pub(super) fn required(&mut self, key: &'static str, expected: &str) -> Option<Value<'a>> {
        let value = self.optional(key);
        if value.is_none() {
            let path = self.path_of(key);
            let what = format!("missing, expected {expected}");
            self.reader.problem(self.line, &path, what);
        }
        value
    }

    /// All values, for a table whose keys are names.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.entries.iter().map(|(name, value)| {
            let name: &'a str = name.get_ref();
            (name, self.value(name, value))
        })
    }

    /// Complains of the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.entries.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let line = self.reader.line(key.span().start);
            let hint = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("unknown key, did you mean `{near}`?"),
                None => format!("unknown key, expected one of {}", list(&self.known)),
            };
            self.reader.problem(line, &self.path_of(name), hint);
        }
    }

    fn value(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        Value {
            reader: self.reader,
            path: self.path_of(key),
            line: self.reader.line(value.span().start),
            value: value.get_ref(),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

// === impl Built ===

impl<C> Built<C> {
    pub(super) const fn new(config: C) -> Self {
        Self {
            config,
            is_right: true,
        }
    }

    /// Applies the value of `key`, if it is there.
    pub(super) fn set<'a, T>(
        self,
        table: &mut Table<'a>,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
        set: impl FnOnce(C, T) -> C,
    ) -> Self {
        match table.optional(key).map(|value| read(&value)) {
            None => self,
            Some(None) => Self {
                is_right: false,
                ..self
            },
            Some(Some(read)) => Self {
                config: set(self.config, read),
                ..self
            },
        }
    }

    /// What was built, if nothing was wrong.
    pub(super) fn finish(self) -> Option<C> {
        self.is_right.then_some(self.config)
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    /// Complains of this value.
    pub(super) fn expected(&self, expected: &str) {
        let what = format!("expected {expected}");
        self.reader.problem(self.line, &self.path, what);
    }

    fn wrong_type(&self, expected: &str) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let what = format!("expected {expected}, found {found}");
        self.reader.problem(self.line, &self.path, what);
    }

    pub(super) fn text(&self, expected: &str) -> Option<&'a str> {
        if let DeValue::String(text) = self.value {
            return Some(text);
        }
        self.wrong_type(expected);
        None
    }

    /// A string that `parse` understands.
    pub(super) fn parse<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(self.text(expected)?);
        if parsed.is_none() {
            self.expected(expected);
        }
        parsed
    }

    /// A string that is not empty.
    pub(super) fn filled(&self, expected: &str) -> Option<String> {
        self.parse(expected, |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", list(&names));
        let text = self.text(&expected)?;
        let found = words.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            match nearest(text, names) {
                Some(near) => self.expected(&format!("{expected}; did you mean `{near}`?")),
                None => self.expected(&expected),
            }
        }
        found.map(|(_, value)| *value)
    }

    /// A name that `find` knows. Of a slip the nearest of `names` is named, of anything else all.
    pub(super) fn named<'n, T>(
        &self,
        expected: &str,
        names: impl IntoIterator<Item = &'n str>,
        find: impl FnOnce(&'a str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(expected)?;
        let found = find(text);
        if found.is_none() {
            let names: Vec<_> = names.into_iter().collect();
            match nearest(text, names.iter().copied()) {
                Some(near) => self.expected(&format!("{expected}, did you mean `{near}`?")),
                None => self.expected(&format!("{expected}, one of {}", list(&names))),
            }
        }
        found
    }

    /// A duration with a unit, more than nothing and at most a day.
    pub(super) fn duration(&self) -> Option<Duration> {
        self.parse(
            "a whole number of `ms`, `s`, `m` or `h`, such as \"250ms\" or \"10s\", from 1ms to 24h",
            |text| {
                let range = Duration::from_millis(1)..=LONGEST;
                duration(text).filter(|duration| range.contains(duration))
            },
        )
    }

    /// A number of bytes, as an integer or with a unit.
    pub(super) fn bytes(&self) -> Option<usize> {
        let expected = "a size such as \"16MiB\" or a number of bytes, at least 1";
        let size = match self.value {
            DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) => size(text),
            _ => {
                self.wrong_type(expected);
                return None;
            }
        };
        let size = size.filter(|size| *size > 0);
        if size.is_none() {
            self.expected(expected);
        }
        size
    }

    /// A positive integer.
    pub(super) fn count(&self) -> Option<u64> {
        let expected = "an integer of at least 1";
        let DeValue::Integer(number) = self.value else {
            self.wrong_type(expected);
            return None;
        };
        let count = u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|count| *count > 0);
        if count.is_none() {
            self.expected(expected);
        }
        count
    }

    /// A number from `least` to `most`.
    pub(super) fn number(&self, least: f64, most: f64) -> Option<f64> {
        let expected = format!("a number from {least} to {most}");
        let number = match self.value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => {
                self.wrong_type(&expected);
                return None;
            }
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.expected(&expected);
        }
        number
    }

    pub(super) fn flag(&self) -> Option<bool> {
        if let DeValue::Boolean(flag) = self.value {
            return Some(*flag);
        }
        self.wrong_type("true or false");
        None
    }

    pub(super) const fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// What a layer makes of the value, or its own complaint.
    pub(super) fn fits<T>(&self, made: Result<T, impl fmt::Display>) -> Option<T> {
        made.inspect_err(|error| {
            self.reader
                .problem(self.line, &self.path, error.to_string());
        })
        .ok()
    }

    /// A positive integer of some other type.
    pub(super) fn whole<T: TryFrom<u64>>(&self) -> Option<T> {
        let whole = T::try_from(self.count()?).ok();
        if whole.is_none() {
            self.expected("a smaller integer");
        }
        whole
    }

    pub(super) fn share(&self) -> Option<f64> {
        self.number(0.0, 1.0)
    }

    pub(super) fn table(&self, expected: &str) -> Option<Table<'a>> {
        if let DeValue::Table(entries) = self.value {
            return Some(Table {
                reader: self.reader,
                path: self.path.clone(),
                line: self.line,
                entries,
                known: Vec::new(),
            });
        }
        self.wrong_type(expected);
        None
    }

    pub(super) fn array(&self, expected: &str) -> Option<Vec<Self>> {
        let DeValue::Array(items) = self.value else {
            self.wrong_type(expected);
            return None;
        };
        let item = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| Value {
            reader: self.reader,
            path: format!("{}[{index}]", self.path),
            line: self.reader.line(item.span().start),
            value: item.get_ref(),
        };
        Some(items.iter().enumerate().map(item).collect())
    }
}

/// `"250ms"`, `"10 s"`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = quantity(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// `"16MiB"`, `"64 MB"`, `"1024"`.
fn size(text: &str) -> Option<usize> {
    let (number, unit) = quantity(text)?;
    let unit = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)?.try_into().ok()
}

/// A whole number and its unit.
fn quantity(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

/// The name that was probably meant.
fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // A third of the letters wrong is a slip; more is another word, unless only its end is missing.
    let allowed = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| {
            *distance <= allowed || (name.len() > 3 && known.starts_with(name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour (optimal
/// string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

fn list(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

// === impl ConfigError ===

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "line {}: ", problem.line)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
