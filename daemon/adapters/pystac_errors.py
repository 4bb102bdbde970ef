"""What pystac raises over a document that is not the STAC it should be; its errors have no common base."""

from __future__ import annotations

from pystac.errors import (
    DuplicateObjectKeyError,
    ExtensionAlreadyExistsError,
    ExtensionNotImplemented,
    ExtensionTypeError,
    RequiredPropertyMissing,
    STACError,
    STACLocalValidationError,
    STACTypeError,
    STACValidationError,
    TemplateError,
)

PYSTAC_ERRORS: tuple[type[Exception], ...] = (
    DuplicateObjectKeyError,
    ExtensionAlreadyExistsError,
    ExtensionNotImplemented,
    ExtensionTypeError,
    RequiredPropertyMissing,
    STACError,
    STACLocalValidationError,
    STACTypeError,
    STACValidationError,
    TemplateError,
)
