//! The part of JSON Schema (draft 2020-12) that `get.schema.json` uses. Any other keyword fails, so that none is skipped.

use serde_json::Value;

pub(crate) struct Schema(Value);

impl Schema {
    pub(crate) fn new(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    pub(crate) fn is_valid(&self, value: &Value) -> bool {
        self.check(&self.0, value)
    }

    fn check(&self, schema: &Value, value: &Value) -> bool {
        let all = |of: &Value, count: fn(usize) -> bool| {
            count(of.as_array().unwrap().iter().filter(|one| self.check(one, value)).count())
        };
        schema.as_object().unwrap().iter().all(|(keyword, of)| match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                self.check(self.0.pointer(of.as_str().unwrap().trim_start_matches('#')).unwrap(), value)
            }
            "anyOf" => all(of, |fits| fits > 0),
            "oneOf" => all(of, |fits| fits == 1),
            "const" => value == of,
            "enum" => of.as_array().unwrap().contains(value),
            "type" => match of.as_array() {
                Some(any) => any.iter().any(|kind| is(kind, value)),
                None => is(of, value),
            },
            "minimum" => value.as_f64().is_none_or(|number| number >= of.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= of.as_f64().unwrap()),
            "pattern" => {
                assert_eq!(of, "^[0-9a-f]{64}$", "the one pattern that is known here");
                value.as_str().is_none_or(|text| {
                    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                })
            }
            "required" => value.as_object().is_none_or(|object| {
                of.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|object| {
                let fits = |(name, schema)| object.get(name).is_none_or(|value| self.check(schema, value));
                of.as_object().unwrap().iter().all(fits)
            }),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| self.check(of, item))),
            keyword => panic!("{keyword} is not known here"),
        })
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "array" => value.is_array(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        kind => panic!("{kind} is not known here"),
    }
}
