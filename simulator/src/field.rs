//! Access to the fields of JSON objects, which are absent or of another type in many requests.

use serde_json::Value;

/// Returns the text of a field.
pub(super) fn text_field<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// Returns the text of a field; it is empty if there is none.
pub(super) fn text_or_empty<'a>(object: &'a Value, name: &str) -> &'a str {
    text_field(object, name).unwrap_or_default()
}

/// Returns the text at a JSON pointer.
pub(super) fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

/// Returns the number of a field, if it is a whole number that is not negative.
pub(super) fn number_field(object: &Value, name: &str) -> Option<u64> {
    object.get(name)?.as_u64()
}

/// Returns the items of a field that is a list; there are none if it is absent.
pub(super) fn list_field<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    let list = object.get(name).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// Returns the items of a field that is a list and not empty.
pub(super) fn filled_list_field<'a>(object: &'a Value, name: &str) -> Option<&'a [Value]> {
    let list = object.get(name)?.as_array()?;
    (!list.is_empty()).then_some(list.as_slice())
}
