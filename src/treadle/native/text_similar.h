/* Pieces of a document that are almost alike: edit distance within a band, after two bounds that cost little. */

enum { BINS = 32 };

typedef struct {
    const uint32_t *points;
    int64_t size;
    uint8_t bins[BINS]; /* how many characters fall into each, up to 255 */
} Piece;

/* Whether the distances of the counts allow `limit` edits: one edit changes their sum of differences by 2 at most. */
static int32_t may_be_alike(const Piece *a, const Piece *b, int64_t limit) {
    int32_t apart = 0;
    for (int i = 0; i < BINS; i++) apart += a->bins[i] > b->bins[i] ? a->bins[i] - b->bins[i] : b->bins[i] - a->bins[i];
    return apart <= 2 * limit;
}

/* Whether Levenshtein's distance is at most `limit`: only cells that near the diagonal are computed. `row` has room for b->size + 1. */
static int32_t is_within(const Piece *a, const Piece *b, int64_t limit, int64_t *row) {
    const int64_t far = limit + 1;
    for (int64_t j = 0; j <= b->size; j++) row[j] = j <= limit ? j : far;
    for (int64_t i = 1; i <= a->size; i++) {
        int64_t low = i > limit ? i - limit : 1, high = i + limit < b->size ? i + limit : b->size;
        int64_t diagonal = row[low - 1], best = far;
        row[low - 1] = low == 1 && i <= limit ? i : far;
        for (int64_t j = low; j <= high; j++) {
            int64_t cost = diagonal + (a->points[i - 1] != b->points[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < cost && j < i + limit) cost = row[j] + 1;
            if (row[j - 1] + 1 < cost) cost = row[j - 1] + 1;
            row[j] = cost < far ? cost : far;
            best = row[j] < best ? row[j] : best;
        }
        if (best > limit && row[low - 1] > limit) return 0;
    }
    return row[b->size] <= limit;
}

static int32_t are_alike(const Piece *a, const Piece *b, double fraction, int64_t short_chars, int64_t *row) {
    int64_t longer = a->size > b->size ? a->size : b->size, shorter = a->size + b->size - longer;
    int64_t limit = shorter <= short_chars ? 0 : (int64_t)(fraction * (double)longer);
    if (longer - shorter > limit || !may_be_alike(a, b, limit)) return 0;
    return limit ? is_within(a, b, limit, row) : !memcmp(a->points, b->points, (size_t)a->size * 4);
}

/* Says which pieces are almost equal to one of the last `window` pieces of their document that stay: goes[pieces].
 * starts[documents + 1] are the documents' first pieces. Returns 0 if memory ends. */
int32_t similar_pieces(const uint8_t *texts, const int64_t *offsets, const int64_t *starts, int64_t documents, double fraction, int64_t short_chars,
                       int64_t window, uint8_t *goes) {
    for (int64_t d = 0; d < documents; d++) {
        int64_t first = starts[d], count = starts[d + 1] - first, num_bytes = offsets[starts[d + 1]] - offsets[first], longest = 0, kept = 0, used = 0;
        Piece *pieces = malloc((size_t)(count + 1) * sizeof(Piece));
        uint32_t *points = malloc((size_t)(num_bytes + 1) * 4);
        int64_t *row = 0;
        for (int64_t i = 0; pieces && points && i < count; i++) {
            const int64_t *at = offsets + first + i;
            longest = at[1] - at[0] > longest ? at[1] - at[0] : longest;
        }
        if (pieces && points) row = malloc((size_t)(longest + 1) * 8);
        for (int64_t i = 0; row && i < count; i++) {
            Piece *piece = pieces + kept; /* those that stay stand one after the other */
            const int64_t *at = offsets + first + i;
            piece->points = points + used, piece->size = decode(texts + at[0], at[1] - at[0], points + used);
            used += piece->size;
            memset(piece->bins, 0, BINS);
            for (int64_t k = 0; k < piece->size; k++) {
                uint8_t *bin = piece->bins + (piece->points[k] * 0x9e3779b1u >> 27);
                *bin += *bin < 255;
            }
            int32_t is_copy = 0;
            for (int64_t k = kept - 1; !is_copy && k >= 0 && k >= kept - window; k--) is_copy = are_alike(pieces + k, piece, fraction, short_chars, row);
            goes[first + i] = (uint8_t)is_copy, kept += !is_copy;
        }
        int32_t is_done = row != 0;
        free(pieces), free(points), free(row);
        if (!is_done) return 0;
    }
    return 1;
}
