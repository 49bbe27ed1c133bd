//! Reading a body that has one canonical form (RFC 8785), and refusing one that has none.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The members of the object that `body` is.
///
/// `None` when two bodies that mean different things to somebody could have its canonical form: RFC
/// 8785 asks for I-JSON (RFC 7493), which knows no name twice in one object, since some take the
/// first and some the last, and no number beyond 2^53, since its numbers are those of ECMAScript.
pub(super) fn read(body: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(body).ok()? {
        Unambiguous(Value::Object(members)) => Some(members),
        Unambiguous(_) => None,
    }
}

struct Unambiguous(Value);

struct Reader;

const EXACT: u64 = 1 << 53;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Reader).map(Self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON that has a canonical form")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        if number > EXACT {
            return Err(E::custom("a number beyond 2^53"));
        }
        Ok(Value::from(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        if number.unsigned_abs() > EXACT {
            return Err(E::custom("a number beyond 2^53"));
        }
        Ok(Value::from(number))
    }

    /// Integers that do not fit into 64 bits come here too.
    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        if number.abs() >= EXACT as f64 {
            return Err(E::custom("a number beyond 2^53"));
        }
        Ok(Value::from(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = elements.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Unambiguous(value))) = members.next_entry::<String, _>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name twice in one object"));
            }
        }
        Ok(Value::Object(map))
    }
}
