//! Example values that a JSON Schema accepts.

use serde_json::{Map, Value, json};

use super::field::{list_field, number_field, text_field};

/// The depth at which a schema is taken to refer to itself.
const MAX_DEPTH: usize = 16;

/// The most items of an array and characters of a text, even if a schema requires more.
const MAX_LENGTH: u64 = 100;

/// Returns the plainest value that `schema` accepts, which holds the required fields only.
pub(super) fn example(schema: &Value) -> Value {
    value(schema, schema, 0)
}

fn value(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let inner = |schema: &Value| value(schema, root, depth + 1);
    let first_of_enum = || schema.get("enum")?.get(0);
    if let Some(given) = schema.get("const").or_else(first_of_enum) {
        return given.clone();
    }
    if let Some(target) = text_field(schema, "$ref") {
        return target
            .strip_prefix('#')
            .and_then(|pointer| root.pointer(pointer))
            .map_or(Value::Null, inner);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(key).and_then(|list| list.get(0)) {
            return inner(first);
        }
    }
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    match kind(schema).as_str() {
        "object" => object(schema, inner),
        "array" => {
            let least = number_field(schema, "minItems")
                .unwrap_or(1)
                .min(MAX_LENGTH);
            let item = schema.get("items").map_or_else(|| json!("x"), inner);
            Value::Array((0..least).map(|_| item.clone()).collect())
        }
        "integer" => json!(schema.get("minimum").and_then(Value::as_i64).unwrap_or(1)),
        "number" => number("minimum").map_or(json!(1), |least| json!(least)),
        "boolean" => json!(true),
        "null" => Value::Null,
        _ => {
            let least = number_field(schema, "minLength")
                .unwrap_or(1)
                .clamp(1, MAX_LENGTH);
            json!("x".repeat(usize::try_from(least).unwrap_or(1)))
        }
    }
}

/// Returns the type in lower case, since Gemini writes it in upper case. Of several types, returns the first.
fn kind(schema: &Value) -> String {
    let named = schema.get("type").and_then(|kind| {
        let first = || kind.get(0)?.as_str();
        kind.as_str().or_else(first)
    });
    let guess = if schema.get("properties").is_some() {
        "object"
    } else {
        "string"
    };
    named.unwrap_or(guess).to_lowercase()
}

fn object(schema: &Value, inner: impl Fn(&Value) -> Value) -> Value {
    let required = list_field(schema, "required").iter();
    let properties = schema.get("properties");
    let field = |name: &str| {
        let property = properties.and_then(|properties| properties.get(name));
        let value = property.map_or_else(|| json!("x"), &inner);
        (name.to_owned(), value)
    };
    let fields = required.filter_map(Value::as_str).map(field);
    Value::Object(fields.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_what_its_schema_requires_and_nothing_else() {
        let schema = json!({
            "type": "object",
            "required": ["city", "days", "unit", "tags", "place"],
            "properties": {
                "city": { "type": "string" },
                "days": { "type": "INTEGER", "minimum": 3 },
                "unit": { "enum": ["C", "F"] },
                "tags": { "type": "array", "items": { "type": ["boolean", "null"] } },
                "place": { "$ref": "#/$defs/place" },
                "more": { "type": "string" },
            },
            "$defs": { "place": { "properties": { "x": { "type": "number" } }, "required": ["x"] } },
        });
        let expected =
            json!({ "city": "x", "days": 3, "unit": "C", "tags": [true], "place": { "x": 1 } });
        assert_eq!(example(&schema), expected);
        let endless = json!({ "type": "array", "items": { "$ref": "#" } });
        assert!(example(&endless).is_array());
    }
}
