//! The list of an account's models: the request for it, which costs nothing, and the reading of the
//! answer.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

use crate::endpoint::Endpoint;
use crate::message::{Reply, Request};
use crate::registry::Dialect;

impl Endpoint {
    /// Returns the request for the list of an account's models, or for something else that costs
    /// nothing and needs a key. The request has no credential. `None` where the provider has no
    /// such request.
    pub fn list_models(&self) -> Option<Request> {
        let mut headers = HeaderMap::new();
        let tried_at = self.provider.tries_keys_at().unwrap_or_default();
        let path = match self.provider.dialect {
            _ if !tried_at.is_empty() => tried_at.to_owned(),
            _ if !self.provider.lists_models() => return None,
            Dialect::Openai | Dialect::Responses => match &self.api_version {
                Some(version) => format!("/openai/models?api-version={version}"),
                None => "/models".to_owned(),
            },
            Dialect::Mistral => "/models".to_owned(),
            Dialect::Anthropic => {
                let version = HeaderValue::try_from(self.version()).ok()?;
                headers.insert("anthropic-version", version);
                "/v1/models?limit=1000".to_owned()
            }
            Dialect::Gemini => "/models?pageSize=1000".to_owned(),
            Dialect::Cohere => "/v1/models?page_size=1000".to_owned(),
            Dialect::Ollama => "/api/tags".to_owned(),
            Dialect::Bedrock | Dialect::VertexClaude => return None,
        };
        let (url, account) = (format!("{}{path}", self.base_url), String::new());
        Some(Request {
            method: Method::GET,
            url,
            headers,
            body: Bytes::new(),
            account,
        })
    }
}

/// Returns the models in a list: `data[].id` of OpenAI's, `models[].name` of others'. `None` if the
/// reply is not a list.
pub fn models(reply: &Reply) -> Option<Vec<String>> {
    let value: Value = serde_json::from_slice(&reply.body).ok()?;
    // Together sends the bare list.
    let list = value.get("data").or_else(|| value.get("models"));
    let models = list.unwrap_or(&value).as_array()?;
    Some(models.iter().filter_map(name).collect())
}

fn name(model: &Value) -> Option<String> {
    let name = model.get("id").or_else(|| model.get("name"))?;
    let name = name.as_str()?;
    let plain = name.strip_prefix("models/").unwrap_or(name);
    Some(plain.to_owned())
}
