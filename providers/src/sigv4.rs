//! AWS Signature Version 4 over a whole request.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SigningSettings, sign as sign_request,
};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::message::Request;

/// The name of the service for which Bedrock's requests are signed.
const SERVICE: &str = "bedrock";

/// Signs a request for the region in its address. The key is `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, or
/// the same with `:SESSION_TOKEN`.
pub(super) fn sign(request: &mut Request, key: &str, now: Timestamp) -> Result<(), String> {
    let mut parts = key.splitn(3, ':');
    let (Some(id), Some(secret)) = (parts.next(), parts.next()) else {
        return Err(
            "an AWS key is ACCESS_KEY_ID:SECRET_ACCESS_KEY, or with :SESSION_TOKEN".to_owned(),
        );
    };
    let region = region(&request.url)
        .ok_or("the address names no region of AWS: write https://bedrock-runtime.REGION.amazonaws.com")?
        .to_owned();
    let identity = Credentials::new(
        id,
        secret,
        parts.next().map(str::to_owned),
        None,
        "configuration",
    )
    .into();
    let nanos = u64::try_from(now.as_nanosecond()).map_err(|error| error.to_string())?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    // None of these errors repeats the credential.
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&region)
        .name(SERVICE)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?;
    let headers = request.headers.iter().filter_map(as_text);
    let signable = SignableRequest::new(
        request.method.as_str(),
        &request.url,
        headers,
        SignableBody::Bytes(&request.body),
    )
    .map_err(|error| error.to_string())?;
    let (instructions, _) = sign_request(signable, &params.into())
        .map_err(|error| error.to_string())?
        .into_parts();
    let (signed, _) = instructions.into_parts();
    for header in signed {
        let name = HeaderName::try_from(header.name()).map_err(|error| error.to_string())?;
        let mut value = HeaderValue::try_from(header.value()).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        request.headers.insert(name, value);
    }
    Ok(())
}

/// Returns a header as text; `None` where its value is not.
fn as_text<'a>((name, value): (&'a HeaderName, &'a HeaderValue)) -> Option<(&'a str, &'a str)> {
    Some((name.as_str(), value.to_str().ok()?))
}

/// Returns the region in `https://bedrock-runtime.eu-west-1.amazonaws.com/…`. It follows the name
/// of the service, also in private links and in other partitions.
fn region(url: &str) -> Option<&str> {
    let host = url.split_once("://")?.1.split(['/', ':']).next()?;
    let mut labels = host
        .split('.')
        .skip_while(|label| !label.starts_with("bedrock-runtime"));
    labels.nth(1).filter(|label| label.contains('-'))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method};

    use super::*;

    fn request(url: &str) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let (url, body) = (url.to_owned(), Bytes::from_static(b"{}"));
        Request {
            method: Method::POST,
            url,
            headers,
            body,
            account: String::new(),
        }
    }

    /// The expected signature is the one that botocore 1.44.8 computes for the same request, key
    /// and time.
    #[test]
    fn a_request_is_signed_as_aws_expects_it() {
        let url =
            "https://bedrock-runtime.eu-west-1.amazonaws.com/model/anthropic.claude-3%3A0/converse";
        let mut request = request(url);
        let now = "2026-11-24T10:00:00Z".parse().expect("a time");
        sign(
            &mut request,
            "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            now,
        )
        .expect("signed");
        assert_eq!(request.headers["x-amz-date"], "20261124T100000Z");
        let authorization = request.headers["authorization"].to_str().expect("text");
        assert!(
            authorization.contains("AKIDEXAMPLE/20261124/eu-west-1/bedrock/aws4_request"),
            "{authorization}"
        );
        assert!(
            authorization
                .ends_with("2e927695657aab2232874555486530f5886f9d9d7990e01e7580f4ee9be67266"),
            "{authorization}"
        );
    }

    #[test]
    fn the_region_is_that_of_the_service() {
        for (host, expected) in [
            ("bedrock-runtime.eu-west-1.amazonaws.com", Some("eu-west-1")),
            (
                "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
                Some("us-gov-west-1"),
            ),
            (
                "vpce-1a.bedrock-runtime.eu-west-1.vpce.amazonaws.com",
                Some("eu-west-1"),
            ),
            (
                "bedrock-runtime.cn-north-1.amazonaws.com.cn",
                Some("cn-north-1"),
            ),
            ("bedrock-runtime.eu-west-1.api.aws", Some("eu-west-1")),
            ("127.0.0.1:9001", None),
        ] {
            assert_eq!(
                region(&format!("https://{host}/model/m/converse")),
                expected,
                "{host}"
            );
        }
    }

    #[test]
    fn a_session_token_is_sent_beside_the_signature() {
        let mut request =
            request("https://bedrock-runtime.us-east-1.amazonaws.com/model/m/converse");
        let now = "2026-11-24T10:00:00Z".parse().expect("a time");
        sign(&mut request, "AKID:secret:session", now).expect("signed");
        assert_eq!(request.headers["x-amz-security-token"], "session");
        assert!(!format!("{:?}", request.headers).contains("session\""));
    }

    #[test]
    fn a_key_of_another_form_is_refused_without_being_repeated() {
        let error = sign(&mut request("https://host/"), "sk-1", Timestamp::UNIX_EPOCH)
            .expect_err("no AWS key");
        assert!(
            error.contains("ACCESS_KEY_ID") && !error.contains("sk-1"),
            "{error}"
        );
    }
}
