"""What is said of records that are mended alike, whatever format they come in."""

__all__ = ["EMPTY_ID", "FOLDER_LOST", "NO_ID", "NO_UTF8"]

EMPTY_ID = "an empty id gave way to a hash of the text"
NO_ID = "an id that is no text or number gave way to a hash of the text"
FOLDER_LOST = "a column that the path says gave way to the record's own field"
NO_UTF8 = "bytes that are no UTF-8 were replaced"
