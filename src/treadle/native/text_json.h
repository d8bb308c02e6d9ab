/* Lines of JSON: of each object the text, the id and the raw rest. Whatever is not plain goes back to Python, which also says why. */

enum { DOCUMENT, BLANK_LINE, EMPTY_TEXT };
enum { BLOCK = 32 };

typedef struct {
    const uint8_t *at, *end;
} Cursor;

typedef struct {
    const uint8_t *name;
    int64_t size;
} Name;

static void skip_blanks(Cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

static int32_t takes(Cursor *c, uint8_t wanted) {
    skip_blanks(c);
    return c->at < c->end && *c->at == wanted ? c->at++, 1 : 0;
}

/* Bytes of a valid UTF-8 sequence that begins with a byte above 0x7f; 0 if it is none. */
static int64_t sequence_bytes(const uint8_t *p, const uint8_t *end) {
    int64_t size = *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
    if (!size || end - p < size) return 0;
    for (int64_t i = 1; i < size; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    uint8_t low = *p == 0xe0 ? 0xa0 : *p == 0xf0 ? 0x90 : 0x80, high = *p == 0xed ? 0x9f : *p == 0xf4 ? 0x8f : 0xbf;
    return p[1] < low || p[1] > high ? 0 : size;
}

static int64_t four_digits(const uint8_t *p, const uint8_t *end) {
    int64_t value = 0;
    if (end - p < 4) return -1;
    for (int64_t i = 0; i < 4; i++) {
        uint8_t c = p[i], low = c | 0x20;
        int64_t digit = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

static uint8_t *encode(int64_t point, uint8_t *to) {
    if (point < 0x80) *to++ = (uint8_t)point;
    else if (point < 0x800) *to++ = (uint8_t)(0xc0 | point >> 6), *to++ = (uint8_t)(0x80 | (point & 0x3f));
    else {
        if (point < 0x10000) *to++ = (uint8_t)(0xe0 | point >> 12);
        else *to++ = (uint8_t)(0xf0 | point >> 18), *to++ = (uint8_t)(0x80 | (point >> 12 & 0x3f));
        *to++ = (uint8_t)(0x80 | (point >> 6 & 0x3f)), *to++ = (uint8_t)(0x80 | (point & 0x3f));
    }
    return to;
}

/* Copies what an escape stands for; the cursor is behind the backslash. Half a surrogate pair is none. */
static uint8_t *copy_escape(Cursor *c, uint8_t *to) {
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (c->at >= c->end) return 0;
    uint8_t kind = *c->at++;
    const char *found = kind ? strchr(from, kind) : 0;
    if (found) return *to++ = (uint8_t)into[found - from], to;
    int64_t point = kind == 'u' ? four_digits(c->at, c->end) : -1;
    if (point < 0 || (point >= 0xdc00 && point < 0xe000)) return 0;
    c->at += 4;
    if (point >= 0xd800 && point < 0xdc00) {
        if (c->end - c->at < 6 || c->at[0] != '\\' || c->at[1] != 'u') return 0;
        int64_t second = four_digits(c->at + 2, c->end);
        if (second < 0xdc00 || second > 0xdfff) return 0;
        c->at += 6, point = 0x10000 + ((point - 0xd800) << 10) + (second - 0xdc00);
    }
    return encode(point, to);
}

/* Copies a string without its escapes; the cursor goes from behind one quotation mark to behind the other. 0 if it is not plain.
 * Up to BLOCK bytes behind what is copied may change. */
static uint8_t *copy_string(Cursor *c, uint8_t *to) {
    while (c->at < c->end) {
        while (c->end - c->at >= BLOCK) {
            uint8_t is_special = 0;
            for (int i = 0; i < BLOCK; i++) is_special |= (c->at[i] == '"') | (c->at[i] == '\\') | (c->at[i] < 0x20) | (c->at[i] > 0x7f);
            if (is_special) break;
            memcpy(to, c->at, BLOCK), to += BLOCK, c->at += BLOCK;
        }
        for (int64_t taken = 0; taken < BLOCK && c->at < c->end;) {
            uint8_t byte = *c->at;
            int64_t size = 1;
            if (byte == '"') return c->at++, to;
            if (byte < 0x20) return 0;
            if (byte == '\\') {
                if (c->at++, !(to = copy_escape(c, to))) return 0;
                taken++;
                continue;
            }
            if (byte > 0x7f && !(size = sequence_bytes(c->at, c->end))) return 0;
            for (int64_t i = 0; i < size; i++) *to++ = *c->at++;
            taken += size;
        }
    }
    return 0;
}

static int32_t skip_string(Cursor *c) {
    for (; c->at < c->end; c->at++) {
        if (*c->at == '"') return c->at++, 1;
        c->at += *c->at == '\\';
    }
    return 0;
}

/* Skips a value that Python will check; only where it ends is found. */
static int32_t skip_value(Cursor *c) {
    int64_t depth = 0;
    skip_blanks(c);
    const uint8_t *start = c->at;
    while (c->at < c->end) {
        uint8_t byte = *c->at;
        if (byte == '"') {
            if (c->at++, !skip_string(c)) return 0;
            if (!depth) return 1;
            continue;
        }
        if (!depth && c->at > start && (byte == ',' || byte == '}' || byte == ' ' || byte == '\t' || byte == '\r')) return 1;
        depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
        if (depth < 0) return 0;
        c->at++;
        if (!depth && (byte == '}' || byte == ']')) return 1;
    }
    return 0;
}

/* Copies an id: a string, or a number of up to 18 digits as it is written; null is none, and leaves `to`. */
static uint8_t *copy_id(Cursor *c, uint8_t *to, uint8_t *is_named) {
    if (takes(c, '"')) return *is_named = 1, copy_string(c, to);
    if (c->end - c->at >= 4 && !memcmp(c->at, "null", 4)) return c->at += 4, to;
    const uint8_t *start = c->at;
    while (c->at < c->end && c->at - start < 19 && *c->at >= '0' && *c->at <= '9') *to++ = *c->at++;
    int64_t size = c->at - start;
    *is_named = 1;
    return size < 1 || size > 18 || (size > 1 && *start == '0') ? 0 : to;
}

/* Whether a text is nothing but what Python's isspace() takes for white space. */
static int32_t is_blank(const uint8_t *text, int64_t num_bytes) {
    for (int64_t i = 0; i < num_bytes;) {
        uint32_t p = text[i], size = p < 0x80 ? 1 : p < 0xe0 ? 2 : p < 0xf0 ? 3 : 4;
        if (size == 2) p = (p & 0x1f) << 6 | (text[i + 1] & 0x3f);
        if (size == 3) p = (p & 0x0f) << 12 | (uint32_t)(text[i + 1] & 0x3f) << 6 | (text[i + 2] & 0x3f);
        int32_t is_space = (p >= 9 && p <= 13) || (p >= 0x1c && p <= 0x20) || p == 0x85 || p == 0xa0 || p == 0x1680 || (p >= 0x2000 && p <= 0x200a) ||
                           p == 0x2028 || p == 0x2029 || p == 0x202f || p == 0x205f || p == 0x3000;
        if (size == 4 || !is_space) return 0;
        i += size;
    }
    return 1;
}

typedef struct {
    uint8_t *texts, *ids, *rests; /* where the next one goes */
    uint8_t is_named;
} Fields;

/* Reads one object; 0 if it is not plain. Its text is wanted, and neither it nor the id may stand twice. */
static int32_t read_object(Cursor *c, Name text, Name id, Fields *to) {
    uint8_t *rest = to->rests;
    int32_t has_text = 0, has_id = 0;
    if (!takes(c, '{')) return 0;
    do {
        if (!takes(c, '"')) return 0;
        const uint8_t *key = c->at;
        if (!skip_string(c)) return 0;
        int64_t size = c->at - key - 1;
        if (memchr(key, '\\', (size_t)size) || !takes(c, ':')) return 0;
        if (size == text.size && !memcmp(key, text.name, (size_t)size)) {
            if (has_text++ || !takes(c, '"') || !(to->texts = copy_string(c, to->texts))) return 0;
        } else if (size == id.size && !memcmp(key, id.name, (size_t)size)) {
            if (has_id++ || !(to->ids = copy_id(c, to->ids, &to->is_named))) return 0;
        } else {
            if (!skip_value(c)) return 0;
            to->rests[0] = to->rests == rest ? '{' : ',', to->rests[1] = '"', to->rests += 2;
            memcpy(to->rests, key, (size_t)(c->at - key)), to->rests += c->at - key;
        }
    } while (takes(c, ','));
    if (!takes(c, '}')) return 0;
    skip_blanks(c);
    if (to->rests > rest) *to->rests++ = '}';
    return has_text && c->at == c->end;
}

/* Reads up to `max_lines` lines, the last of which may lack its end. ends[3][lines]: where text, id and rest of each line end in their
 * buffers, each as long as the bytes and 2 * BLOCK more. Returns how many bytes were read, or -1 at a line that is not plain. */
int64_t parse_lines(const uint8_t *bytes, int64_t num_bytes, int64_t max_lines, const uint8_t *text_name, int64_t text_size, const uint8_t *id_name,
                    int64_t id_size, uint8_t *texts, uint8_t *ids, uint8_t *rests, int64_t *ends, uint8_t *is_named, uint8_t *kind, int64_t *num_lines) {
    Name text = {text_name, text_size}, id = {id_name, id_size};
    Fields to = {texts, ids, rests, 0};
    int64_t line = 0, start = 0;
    for (; start < num_bytes && line < max_lines; line++) {
        const uint8_t *end = memchr(bytes + start, '\n', (size_t)(num_bytes - start));
        Cursor cursor = {bytes + start, end ? end : bytes + num_bytes};
        Fields before = to;
        start = cursor.end - bytes + 1;
        skip_blanks(&cursor);
        to.is_named = 0, kind[line] = DOCUMENT;
        if (cursor.at == cursor.end) kind[line] = BLANK_LINE;
        else if (!read_object(&cursor, text, id, &to)) return -1;
        else if (is_blank(before.texts, to.texts - before.texts)) kind[line] = EMPTY_TEXT, to = before;
        is_named[line] = to.is_named;
        ends[line] = to.texts - texts, ends[max_lines + line] = to.ids - ids, ends[2 * max_lines + line] = to.rests - rests;
    }
    *num_lines = line;
    return start < num_bytes ? start : num_bytes;
}
