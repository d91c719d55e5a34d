//! The table of problem kinds: one status, code, title and explanation each.

use axum::http::StatusCode;

/// The families of refusals. Each has one status, one title and one page under `/docs/errors/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    MalformedRequest,
    DigestMismatch,
    LengthMismatch,
    Quarantined,
    ForbiddenOrigin,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    Conflict,
    LengthRequired,
    PayloadTooLarge,
    UnsupportedMediaType,
    RangeNotSatisfiable,
    UnknownHost,
    InvalidRequest,
    RejectedUpload,
    Internal,
    NotReady,
    StoreFull,
}

/// The public description of a kind.
struct Row {
    kind: Kind,
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    meaning: &'static str,
}

/// In the order of the enum, which is what makes the look-up an index.
const ROWS: [Row; 19] = [
    Row {
        kind: Kind::MalformedRequest,
        status: StatusCode::BAD_REQUEST,
        code: "malformed_request",
        title: "The request cannot be read",
        meaning: "A header, a query parameter or the JSON syntax of the body is broken. Correct it and send it again.",
    },
    Row {
        kind: Kind::DigestMismatch,
        status: StatusCode::BAD_REQUEST,
        code: "digest_mismatch",
        title: "The bytes are not the announced ones",
        meaning: "The SHA-256 of what arrived differs from the one announced in the upload or in a digest header. Nothing was kept.",
    },
    Row {
        kind: Kind::LengthMismatch,
        status: StatusCode::BAD_REQUEST,
        code: "length_mismatch",
        title: "The number of bytes is not the announced one",
        meaning: "More or fewer bytes arrived than the upload announced, or the connection broke. Nothing was kept.",
    },
    Row {
        kind: Kind::Quarantined,
        status: StatusCode::FORBIDDEN,
        code: "quarantined",
        title: "The artifact is quarantined",
        meaning: "Submitted files are unvetted. Add ?i_understand=quarantined to fetch them all the same.",
    },
    Row {
        kind: Kind::ForbiddenOrigin,
        status: StatusCode::FORBIDDEN,
        code: "forbidden_origin",
        title: "Another site may not do this",
        meaning: "A browser sent this request on behalf of a different site. Only pages of this service may change anything.",
    },
    Row {
        kind: Kind::NotFound,
        status: StatusCode::NOT_FOUND,
        code: "not_found",
        title: "There is nothing here",
        meaning: "No resource has this identifier, or it was deleted.",
    },
    Row {
        kind: Kind::MethodNotAllowed,
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "method_not_allowed",
        title: "This resource does not know the method",
        meaning: "The Allow header lists the methods that work here.",
    },
    Row {
        kind: Kind::NotAcceptable,
        status: StatusCode::NOT_ACCEPTABLE,
        code: "not_acceptable",
        title: "There is no such representation",
        meaning: "The resource cannot be shown in any of the media types of the Accept header.",
    },
    Row {
        kind: Kind::Conflict,
        status: StatusCode::CONFLICT,
        code: "conflict",
        title: "The resource is in another state",
        meaning: "The request contradicts what the resource is doing now. Read it again before the next attempt.",
    },
    Row {
        kind: Kind::LengthRequired,
        status: StatusCode::LENGTH_REQUIRED,
        code: "length_required",
        title: "The length must be announced",
        meaning: "Send a Content-Length header.",
    },
    Row {
        kind: Kind::PayloadTooLarge,
        status: StatusCode::PAYLOAD_TOO_LARGE,
        code: "payload_too_large",
        title: "The body is too large",
        meaning: "The detail names the limit, which the operator configures.",
    },
    Row {
        kind: Kind::UnsupportedMediaType,
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        code: "unsupported_media_type",
        title: "The body has a media type that is not read here",
        meaning: "Send JSON with Content-Type: application/json.",
    },
    Row {
        kind: Kind::RangeNotSatisfiable,
        status: StatusCode::RANGE_NOT_SATISFIABLE,
        code: "range_not_satisfiable",
        title: "The file has no such bytes",
        meaning: "The Content-Range header names the length of the file.",
    },
    Row {
        kind: Kind::UnknownHost,
        status: StatusCode::MISDIRECTED_REQUEST,
        code: "unknown_host",
        title: "The request was meant for another host",
        meaning: "A service that listens on the loopback address answers only to localhost, which keeps web pages from reaching it by a foreign name.",
    },
    Row {
        kind: Kind::InvalidRequest,
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_request",
        title: "The request is understood but not possible",
        meaning: "The errors list names each field by a JSON pointer and says what was expected.",
    },
    Row {
        kind: Kind::RejectedUpload,
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "rejected_upload",
        title: "The uploaded files are refused",
        meaning: "Intake found something that it does not accept; the code names it. The bytes were removed.",
    },
    Row {
        kind: Kind::Internal,
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: "internal",
        title: "The service failed",
        meaning: "The cause is in the log of the service under the identifier of the request.",
    },
    Row {
        kind: Kind::NotReady,
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "not_ready",
        title: "The service is not ready",
        meaning: "A part that the service needs does not answer. Try again after the seconds in Retry-After.",
    },
    Row {
        kind: Kind::StoreFull,
        status: StatusCode::INSUFFICIENT_STORAGE,
        code: "store_full",
        title: "There is no room for this",
        meaning: "The disk or the configured quota is exhausted. Nothing of the request was kept.",
    },
];

impl Kind {
    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Every kind, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = Kind> {
        ROWS.iter().map(|row| row.kind)
    }

    /// HTTP status of every problem of this kind.
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// Stable code; also the last part of the documentation page's path.
    pub fn code(self) -> &'static str {
        self.row().code
    }

    /// One line for people.
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// The meaning and the remedy, for the documentation page.
    pub fn meaning(self) -> &'static str {
        self.row().meaning
    }

    /// The kind whose page is `/docs/errors/{code}`.
    pub fn find(code: &str) -> Option<Kind> {
        Kind::all().find(|kind| kind.code() == code)
    }

    /// The kind that stands for a bare status, for answers that did not come from our handlers.
    pub fn of_status(status: StatusCode) -> Kind {
        let general = if status.is_client_error() { Kind::MalformedRequest } else { Kind::Internal };
        Kind::all().find(|kind| kind.status() == status).unwrap_or(general)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_row_and_its_own_code() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.kind as usize, index, "{:?} is out of order", row.kind);
            assert_eq!(Kind::find(row.code), Some(row.kind));
        }
    }

    #[test]
    fn a_bare_status_becomes_the_general_kind_of_that_status() {
        assert_eq!(Kind::of_status(StatusCode::BAD_REQUEST), Kind::MalformedRequest);
        assert_eq!(Kind::of_status(StatusCode::UNPROCESSABLE_ENTITY), Kind::InvalidRequest);
        assert_eq!(Kind::of_status(StatusCode::IM_A_TEAPOT), Kind::MalformedRequest);
        assert_eq!(Kind::of_status(StatusCode::BAD_GATEWAY), Kind::Internal);
    }
}
