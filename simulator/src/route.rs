//! The tasks that the vendors serve, and the addresses of each.

use axum::http::{Method, Uri};

use super::vendor::Vendor;

/// The task of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiTask {
    Chat,
    Responses,
    Embed,
    EmbedMany,
    Rerank,
    Moderate,
    Image,
    Speech,
    Transcribe,
    Models,
    /// OpenRouter's report on a key.
    Key,
    /// Bedrock's Invoke, for the models that Converse does not reach.
    Invoke,
    /// Azure's classic address without the API version that it requires.
    Unversioned,
}

/// The meaning of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiRoute {
    pub(super) task: ApiTask,
    /// The model, if the address names it.
    pub(super) model: Option<String>,
}

/// Returns the task and the model of an address, if this vendor serves it.
pub(super) fn find(vendor: Vendor, method: &Method, uri: &Uri) -> Option<ApiRoute> {
    let path = uri.path();
    if method == Method::GET && vendor == Vendor::OpenRouter && path == "/api/v1/key" {
        return Some(ApiRoute {
            task: ApiTask::Key,
            model: None,
        });
    }
    if method == Method::GET {
        return models(vendor, path).then_some(ApiRoute {
            task: ApiTask::Models,
            model: None,
        });
    }
    if method != Method::POST {
        return None;
    }
    match vendor {
        Vendor::Azure => azure(path, uri.query().unwrap_or_default()),
        Vendor::Gemini => gemini(path),
        Vendor::Bedrock => bedrock(path),
        _ => task(vendor, path).map(|task| ApiRoute { task, model: None }),
    }
}

/// Returns true if the address is served without a key. OpenRouter's list of models is.
pub(super) fn is_public(method: &Method, path: &str) -> bool {
    method == Method::GET && path == "/api/v1/models"
}

/// Returns true if a vendor serves this path.
pub(super) fn serves(vendor: Vendor, path: &str) -> bool {
    let Ok(uri) = path.parse::<Uri>() else {
        return false;
    };
    [Method::POST, Method::GET]
        .iter()
        .any(|method| find(vendor, method, &uri).is_some())
}

fn models(vendor: Vendor, path: &str) -> bool {
    match vendor {
        Vendor::Ollama => path == "/api/tags",
        Vendor::Gemini => matches!(path, "/v1beta/models" | "/v1/models"),
        Vendor::Azure => path == "/openai/v1/models",
        Vendor::OpenRouter => path == "/api/v1/models" || path == "/v1/models",
        Vendor::Groq => path == "/openai/v1/models" || path == "/v1/models",
        Vendor::DeepSeek => path == "/models" || path == "/v1/models",
        Vendor::Bedrock => false,
        Vendor::OpenAi | Vendor::Anthropic | Vendor::Mistral | Vendor::Cohere => {
            path == "/v1/models"
        }
    }
}

fn task(vendor: Vendor, path: &str) -> Option<ApiTask> {
    match vendor {
        Vendor::Anthropic => (path == "/v1/messages").then_some(ApiTask::Chat),
        Vendor::Mistral => match path.strip_prefix("/v1")? {
            "/chat/completions" => Some(ApiTask::Chat),
            "/embeddings" => Some(ApiTask::Embed),
            "/moderations" => Some(ApiTask::Moderate),
            "/audio/transcriptions" => Some(ApiTask::Transcribe),
            _ => None,
        },
        Vendor::Cohere => match path.strip_prefix("/v2")? {
            "/chat" => Some(ApiTask::Chat),
            "/embed" => Some(ApiTask::Embed),
            "/rerank" => Some(ApiTask::Rerank),
            _ => None,
        },
        Vendor::Ollama => match path.strip_prefix("/api")? {
            "/chat" => Some(ApiTask::Chat),
            "/embed" => Some(ApiTask::Embed),
            _ => None,
        },
        Vendor::OpenRouter => as_openai(
            path.strip_prefix("/api")
                .unwrap_or(path)
                .strip_prefix("/v1")?,
        ),
        Vendor::Groq => as_openai(
            path.strip_prefix("/openai")
                .unwrap_or(path)
                .strip_prefix("/v1")?,
        ),
        // DeepSeek's addresses have no version, but it accepts OpenAI's `/v1`.
        Vendor::DeepSeek => {
            let path = path
                .strip_prefix("/v1")
                .or_else(|| path.strip_prefix("/beta"))
                .unwrap_or(path);
            as_openai(path).filter(|task| *task == ApiTask::Chat)
        }
        Vendor::OpenAi | Vendor::Azure | Vendor::Gemini | Vendor::Bedrock => {
            as_openai(path.strip_prefix("/v1")?)
        }
    }
}

fn as_openai(path: &str) -> Option<ApiTask> {
    match path {
        "/chat/completions" => Some(ApiTask::Chat),
        "/responses" => Some(ApiTask::Responses),
        "/embeddings" => Some(ApiTask::Embed),
        "/rerank" => Some(ApiTask::Rerank),
        "/moderations" => Some(ApiTask::Moderate),
        "/images/generations" => Some(ApiTask::Image),
        "/audio/speech" => Some(ApiTask::Speech),
        "/audio/transcriptions" => Some(ApiTask::Transcribe),
        _ => None,
    }
}

fn azure(path: &str, query: &str) -> Option<ApiRoute> {
    let path = path.strip_prefix("/openai")?;
    if let Some(path) = path.strip_prefix("/v1") {
        return Some(ApiRoute {
            task: as_openai(path)?,
            model: None,
        });
    }
    let (deployment, rest) = path.strip_prefix("/deployments/")?.split_once('/')?;
    let versioned = query.split('&').any(|pair| {
        pair.strip_prefix("api-version=")
            .is_some_and(|v| !v.is_empty())
    });
    let task = as_openai(&format!("/{rest}"))?;
    let task = if versioned {
        task
    } else {
        ApiTask::Unversioned
    };
    Some(ApiRoute {
        task,
        model: Some(decoded(deployment)),
    })
}

fn gemini(path: &str) -> Option<ApiRoute> {
    let path = path
        .strip_prefix("/v1beta/models/")
        .or_else(|| path.strip_prefix("/v1/models/"))?;
    let (model, verb) = path.rsplit_once(':')?;
    let task = match verb {
        "generateContent" => ApiTask::Chat,
        "embedContent" => ApiTask::Embed,
        "batchEmbedContents" => ApiTask::EmbedMany,
        _ => return None,
    };
    Some(ApiRoute {
        task,
        model: Some(decoded(model)),
    })
}

fn bedrock(path: &str) -> Option<ApiRoute> {
    let (model, verb) = path.strip_prefix("/model/")?.rsplit_once('/')?;
    let task = match verb {
        "converse" => ApiTask::Chat,
        "invoke" => ApiTask::Invoke,
        _ => return None,
    };
    // A colon that is not percent-encoded breaks the signature that most clients send.
    (!model.contains([':', '/'])).then(|| ApiRoute {
        task,
        model: Some(decoded(model)),
    })
}

/// Decodes the percent-encoding in a part of an address.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = hex
            .filter(|_| *first == b'%')
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(vendor: Vendor, uri: &str) -> Option<(ApiTask, Option<String>)> {
        let uri: Uri = uri.parse().expect("an address");
        find(vendor, &Method::POST, &uri).map(|route| (route.task, route.model))
    }

    #[test]
    fn each_vendor_has_its_own_addresses() {
        let model = |name: &str| Some(name.to_owned());
        for (vendor, uri, expected) in [
            (
                Vendor::OpenAi,
                "/v1/responses",
                Some((ApiTask::Responses, None)),
            ),
            (Vendor::OpenAi, "/v1/messages", None),
            (
                Vendor::Anthropic,
                "/v1/messages",
                Some((ApiTask::Chat, None)),
            ),
            (
                Vendor::Gemini,
                "/v1beta/models/g:embedContent",
                Some((ApiTask::Embed, model("g"))),
            ),
            (
                Vendor::Gemini,
                "/v1/models/g:batchEmbedContents",
                Some((ApiTask::EmbedMany, model("g"))),
            ),
            (
                Vendor::Azure,
                "/openai/v1/embeddings",
                Some((ApiTask::Embed, None)),
            ),
            (
                Vendor::Azure,
                "/openai/deployments/d/chat/completions?api-version=1",
                Some((ApiTask::Chat, model("d"))),
            ),
            (
                Vendor::Azure,
                "/openai/deployments/d/chat/completions",
                Some((ApiTask::Unversioned, model("d"))),
            ),
            (
                Vendor::Bedrock,
                "/model/a.b-v1%3A0/converse",
                Some((ApiTask::Chat, model("a.b-v1:0"))),
            ),
            (Vendor::Bedrock, "/model/a.b-v1:0/converse", None),
            (
                Vendor::DeepSeek,
                "/chat/completions",
                Some((ApiTask::Chat, None)),
            ),
            (Vendor::DeepSeek, "/v1/embeddings", None),
            (
                Vendor::OpenRouter,
                "/api/v1/chat/completions",
                Some((ApiTask::Chat, None)),
            ),
            (
                Vendor::Groq,
                "/openai/v1/chat/completions",
                Some((ApiTask::Chat, None)),
            ),
            (Vendor::Ollama, "/api/embed", Some((ApiTask::Embed, None))),
            (
                Vendor::Mistral,
                "/v1/audio/transcriptions",
                Some((ApiTask::Transcribe, None)),
            ),
            (Vendor::Mistral, "/v1/audio/speech", None),
        ] {
            assert_eq!(found(vendor, uri), expected, "{uri}");
        }
    }
}
