//! What is answered where no endpoint is: in the shape of every refusal.

use axum::extract::Request;
use jetway_protocol::error::Code;

use crate::error::{ApiError, shown};

pub async fn no_route(request: Request) -> ApiError {
    ApiError::new(Code::RouteNotFound, format!("there is nothing at {}", shown(request.uri().path())))
}

pub async fn no_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), shown(request.uri().path()));
    ApiError::new(Code::MethodNotAllowed, format!("{path} does not take {method}"))
}
