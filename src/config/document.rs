//! The YAML document as a tree of values with line numbers, and typed access to it.
//!
//! The document is first parsed without types, and each value is converted when it is accessed.
//! Values of the wrong type, unknown keys and duplicate keys are therefore reported with the path of
//! their field and its line, which a derived deserializer does not provide. (With
//! `serde_path_to_error` it would provide the path, but not the line.)

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::error::Error;
use super::redaction::Redaction;
use super::suggest::did_you_mean;

/// A parsed configuration file.
pub(super) struct Document {
    file: PathBuf,
    root: Item,
}

/// A value and its line, counted from 1.
struct Item {
    value: Value,
    line: u64,
}

enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Item>),
    /// Entries in the order of the file, including duplicates.
    Map(Vec<(Spanned<String>, Item)>),
}

impl Document {
    /// Parses YAML 1.2, which includes JSON.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        // No valid configuration comes near these; they bound the work for a malicious file.
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: 16,
                max_aliases: 1024,
                max_anchors: 1024,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 65_536 },
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            // `No` and `on` may be node names, and `007` a name or an API key.
            strict_booleans: true,
            reject_unsupported_tags: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            // An excerpt of the file could reveal the API key.
            with_snippet: false,
        };
        let root = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map(|location| location.line()).filter(|&line| line > 0);
            Error::file(file, line, reason(&error))
        })?;
        Ok(Self { file: file.to_owned(), root })
    }

    /// Returns the document itself as a field without a name.
    pub fn root(&self) -> Field<'_> {
        Field { file: &self.file, path: String::new(), item: &self.root, line: 1 }
    }

    /// Returns the redaction of all values whose key marks them as secret, at any depth.
    pub fn redaction(&self) -> Redaction {
        let mut texts = Vec::new();
        let mut numbers = Vec::new();
        self.root.collect_secrets(false, &mut texts, &mut numbers);
        Redaction::new(texts, numbers)
    }
}

/// Returns true if a value under this key may be a secret, even if the key is unknown.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // A path is not a secret.
    !key.ends_with("_file")
        && ["api_key", "secret", "token", "password"].iter().any(|word| key.contains(word))
}

impl Item {
    /// Appends the texts and numbers of all secret scalars of this item. `secret` is true if the item
    /// is one.
    fn collect_secrets(&self, secret: bool, texts: &mut Vec<String>, numbers: &mut Vec<f64>) {
        match &self.value {
            Value::Text(text) if secret => texts.push(text.clone()),
            Value::Text(text) => texts.extend(password_in(text)),
            // In both forms in which messages show it: as an integer and as a number of seconds.
            Value::Integer(number) if secret => {
                texts.extend([number.to_string(), (*number as f64).to_string()]);
                numbers.push(*number as f64);
            }
            Value::Float(number) if secret => {
                texts.push(number.to_string());
                numbers.push(*number);
            }
            Value::List(items) => {
                for item in items {
                    item.collect_secrets(secret, texts, numbers);
                }
            }
            Value::Map(entries) => {
                for (key, item) in entries {
                    if secret {
                        texts.push(key.value.clone());
                    }
                    item.collect_secrets(secret || is_secret(&key.value), texts, numbers);
                }
            }
            _ => {}
        }
    }
}

/// Returns the password in a URL: what is between the first colon and the last `@` of the authority.
fn password_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    let (account, _) = authority.rsplit_once('@')?;
    let (_, password) = account.split_once(':')?;
    Some(password.to_owned())
}

/// Returns the reason for a parser error, without the position, which precedes it.
fn reason(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    match error {
        Yaml::AliasError { error, .. } | Yaml::WithSnippet { error, .. } => reason(error),
        Yaml::Budget { .. }
        | Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. } => {
            "is nested too deeply or repeats too much; simplify it".to_owned()
        }
        Yaml::MultipleDocuments { .. } => "contains more than one document; keep one".to_owned(),
        // Keys are the only values that are deserialized as strings.
        Yaml::NullIntoString { .. } | Yaml::Unexpected { expected: "string scalar", .. } => {
            "has a key that is not a string; put it in quotes".to_owned()
        }
        // The text of a tag may be a secret that begins with an exclamation mark.
        Yaml::UnsupportedTag { .. } => {
            "contains a tag that is not supported; remove it, or put the value in quotes".to_owned()
        }
        Yaml::NonFiniteFloat { .. } => "contains a number that is not finite".to_owned(),
        // The messages of these are fixed texts. Those of other errors may contain a value.
        Yaml::Message { .. }
        | Yaml::ExternalMessage { .. }
        | Yaml::Eof { .. }
        | Yaml::Unexpected { .. }
        | Yaml::MergeValueNotMapOrSeqOfMaps { .. }
        | Yaml::InvalidBinaryBase64 { .. }
        | Yaml::BinaryNotUtf8 { .. }
        | Yaml::TaggedScalarCannotDeserializeIntoString { .. }
        | Yaml::InvalidBooleanStrict { .. }
        | Yaml::InvalidScalar { .. }
        | Yaml::ContainerEndMismatch { .. }
        | Yaml::UnknownAnchor { .. } => {
            let message = error.to_string();
            let position = message.rfind(" at line ").unwrap_or(message.len());
            format!("is not valid YAML: {}", message[..position].replace('\n', " "))
        }
        _ => "is not valid YAML".to_owned(),
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { value, line: referenced.line() })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        // Saturated or not, the number is out of range.
        Ok(Value::Integer(value.try_into().unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary data is not supported"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

impl Value {
    /// Returns the type for error messages, which do not show the value: it may be a misplaced key.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a decimal number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// A value of the document, with its path.
#[derive(Clone)]
pub(super) struct Field<'a> {
    file: &'a Path,
    path: String,
    item: &'a Item,
    line: u64,
}

/// An entry of a mapping.
pub(super) struct Entry<'a> {
    /// Text of the key.
    pub name: &'a str,
    /// The key as the location of errors.
    pub key: Field<'a>,
    /// The value.
    pub field: Field<'a>,
}

impl<'a> Field<'a> {
    /// Creates an error about this field.
    pub fn error(&self, message: impl Into<String>) -> Error {
        if self.path.is_empty() {
            return Error::file(self.file, Some(self.line), message);
        }
        Error::field(self.file, self.line, &self.path, message)
    }

    /// Creates an error about `key`, which this field lacks.
    pub fn missing(&self, key: &str, message: &str) -> Error {
        let message = format!("is missing; {message}");
        Error::field(self.file, self.line, &self.path_of(key), message)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn mismatch(&self, expected: &str, fix: &str) -> Error {
        self.error(format!("is {}, not {expected}; {fix}", self.item.value.kind()))
    }

    /// Returns true if the key has no value.
    pub fn is_null(&self) -> bool {
        matches!(self.item.value, Value::Null)
    }

    /// Returns true if the value is a mapping.
    pub fn is_mapping(&self) -> bool {
        matches!(self.item.value, Value::Map(_))
    }

    /// Returns the value as a string.
    pub fn text(&self) -> Result<&'a str, Error> {
        match &self.item.value {
            Value::Text(text) => Ok(text),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                Err(self.mismatch("a string", "put it in quotes"))
            }
            _ => Err(self.mismatch("a string", "use a single value")),
        }
    }

    /// Returns the value as a boolean.
    pub fn boolean(&self) -> Result<bool, Error> {
        match self.item.value {
            Value::Bool(value) => Ok(value),
            _ => Err(self.mismatch("a boolean", "use true or false, without quotes")),
        }
    }

    /// Parses the value, which is a string.
    pub fn parse<T: std::str::FromStr<Err: fmt::Display>>(&self) -> Result<T, Error> {
        self.text()?.parse().map_err(|error: T::Err| self.error(error.to_string()))
    }

    /// Returns the value as an integer that `allowed` accepts; `range` describes those integers.
    pub fn integer(&self, allowed: impl Fn(u64) -> bool, range: &str) -> Result<u64, Error> {
        let fix = format!("use a number {range}");
        let number = match self.item.value {
            Value::Integer(number) => number,
            Value::Text(_) => {
                let fix = format!("{fix}, without quotes");
                return Err(self.mismatch("an integer", &fix));
            }
            _ => return Err(self.mismatch("an integer", &fix)),
        };
        match u64::try_from(number) {
            Ok(number) if allowed(number) => Ok(number),
            _ => Err(self.error(format!("{number} is out of range; {fix}"))),
        }
    }

    /// Returns the value, a number of seconds in `range`.
    pub fn seconds(&self, range: RangeInclusive<f64>) -> Result<Duration, Error> {
        let fix = format!("use a number of seconds from {} to {}", range.start(), range.end());
        let number = match self.item.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            _ => return Err(self.mismatch("a number", &fix)),
        };
        let out_of_range = || self.error(format!("{number} is out of range; {fix}"));
        if !range.contains(&number) {
            return Err(out_of_range());
        }
        Duration::try_from_secs_f64(number).map_err(|_| out_of_range())
    }

    /// Returns the items of a list.
    pub fn list(&self) -> Result<Vec<Field<'a>>, Error> {
        let Value::List(items) = &self.item.value else {
            return Err(self.mismatch("a list", "write the items in brackets: [a, b]"));
        };
        let item = |(index, item)| self.descend(format!("{}[{index}]", self.path), item, 0);
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// Returns the entries of a mapping with arbitrary keys.
    pub fn entries(&self) -> Result<Vec<Entry<'a>>, Error> {
        let entries = match &self.item.value {
            Value::Map(entries) => entries.as_slice(),
            // All lines of the section are commented out.
            Value::Null => &[],
            _ => return Err(self.mismatch("a mapping", "write `key: value` pairs")),
        };
        let mut seen = std::collections::HashMap::new();
        let mut fields = Vec::with_capacity(entries.len());
        for (key, item) in entries {
            let key_line = key.referenced.line();
            let name = key.value.as_str();
            let field = self.descend(self.path_of(name), item, key_line);
            let key = Field { line: key_line, ..field.clone() };
            if let Some(first) = seen.insert(name, key_line) {
                let message = format!("is already set on line {first}; remove one of the two");
                return Err(key.error(message));
            }
            fields.push(Entry { name, key, field });
        }
        Ok(fields)
    }

    /// Returns the entries of a mapping whose keys must be among `known`.
    pub fn section(&self, known: &[&str]) -> Result<Section<'a>, Error> {
        let entries = self.entries()?;
        if let Some(Entry { name, key, .. }) =
            entries.iter().find(|entry| !known.contains(&entry.name))
        {
            let hint = did_you_mean(name, known.iter().copied());
            if !hint.is_empty() {
                return Err(key.error(format!("is unknown{hint}")));
            }
            let fix = format!("remove it or use one of {}", known.join(", "));
            // A misplaced quote or colon can turn a secret into a key, which must not be shown.
            let is_word = |byte| matches!(byte, b'a'..=b'z' | b'_');
            return Err(if name.bytes().all(is_word) {
                key.error(format!("is unknown; {fix}"))
            } else {
                let here = Field { line: key.line, ..self.clone() };
                here.error(format!("has an unknown key; {fix}"))
            });
        }
        Ok(Section { entries })
    }

    /// Returns a field below this one. A scalar is reported on its own line, which need not be that
    /// of its key; a list or mapping is reported on the line of its key.
    fn descend(&self, path: String, item: &'a Item, key_line: u64) -> Self {
        let own_line = match item.value {
            Value::Null | Value::List(_) | Value::Map(_) => key_line == 0,
            _ => true,
        };
        let line = if own_line { item.line } else { key_line };
        Self { file: self.file, path, item, line }
    }
}

/// A mapping with known keys.
pub(super) struct Section<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> Section<'a> {
    /// The section of a file that does not contain it.
    pub const EMPTY: Self = Self { entries: Vec::new() };

    /// Returns the value of `key`. A key without a value counts as absent.
    pub fn get(&self, key: &str) -> Option<&Field<'a>> {
        self.find(key).filter(|field| !field.is_null())
    }

    /// Returns the value of `key`, which may be null.
    pub fn find(&self, key: &str) -> Option<&Field<'a>> {
        self.entries.iter().find(|entry| entry.name == key).map(|entry| &entry.field)
    }

    /// Returns the section `key`, or an empty one if the file does not contain it.
    pub fn section(&self, key: &str, known: &[&str]) -> Result<Section<'a>, Error> {
        self.get(key).map_or(Ok(Section::EMPTY), |field| field.section(known))
    }
}
