/* Which documents of a cluster stay: each one goes for the first of those that stay to which it is similar enough. Exact, and far from
 * comparing all with all: two sets with overlap >= alpha share one of their rarest |x| - alpha + 1 shingles (prefix filter, Xiao et al.,
 * 2008), and sketches of parities bound from below how many shingles differ. */

enum { SKETCH = 16, FEW = 24 };

typedef struct {
    int64_t postings, next; /* of the first posting, of the token's next class */
    int64_t size, least;    /* of the sets in it; the least place of the token in one */
} Class;

typedef struct {
    int64_t leader, place, next;
} Posting;

typedef struct {
    uint32_t *value;   /* [mask + 1] */
    uint32_t *count;   /* in how many sets of the cluster; 0: free */
    int64_t *classes;  /* the first class, or -1 */
    int64_t mask;
    uint64_t *tokens;  /* count << 32 | value, rising in each set: the rarest first */
    int64_t *slots;    /* of each token in the table */
    int64_t *starts;   /* of each row's set */
    uint64_t *sketch;  /* [rows][SKETCH] */
    int64_t *seen;     /* the row that last looked at a leader */
    Class *class;
    Posting *posting;
    int64_t num_classes, num_postings, class_room, posting_room;
} Leaders;

static void free_leaders(Leaders *l) {
    free(l->value), free(l->count), free(l->classes), free(l->tokens), free(l->slots), free(l->starts), free(l->sketch), free(l->seen);
    free(l->class), free(l->posting);
}

static int64_t slot_of(const Leaders *l, uint32_t value) {
    int64_t slot = (int64_t)(mix(value) & (uint64_t)l->mask);
    while (l->count[slot] && l->value[slot] != value) slot = (slot + 1) & l->mask;
    return slot;
}

static int rising(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* |A and B| / |A or B|, as it is compared and reported everywhere. */
static double similarity_of(int64_t both, int64_t all) { return all ? (double)both / (double)(all - both) : 0; }

/* The least overlap of sets of a and b shingles whose similarity reaches the threshold. */
static int64_t least_overlap(double threshold, int64_t a, int64_t b) {
    int64_t low = (int64_t)(threshold / (1 + threshold) * (double)(a + b)) - 1;
    if (low < 0) low = 0;
    while (similarity_of(low, a + b) < threshold && low <= a && low <= b) low++;
    return low;
}

/* Counts, sorts and sketches the sets of the rows. */
static int32_t prepare(Leaders *l, const uint32_t *shingles, const int64_t *starts, const int64_t *sets, int64_t rows) {
    int64_t total = 0, room = 64;
    for (int64_t i = 0; i < rows; i++) total += starts[sets[i] + 1] - starts[sets[i]];
    while (room < 2 * total) room *= 2;
    l->mask = room - 1;
    l->value = malloc((size_t)room * 4), l->count = calloc((size_t)room, 4), l->classes = malloc((size_t)room * 8);
    l->tokens = malloc((size_t)(total + 1) * 8), l->slots = malloc((size_t)(total + 1) * 8), l->starts = malloc((size_t)(rows + 1) * 8);
    l->sketch = calloc((size_t)rows * SKETCH, 8), l->seen = malloc((size_t)rows * 8);
    if (!l->value || !l->count || !l->classes || !l->tokens || !l->slots || !l->starts || !l->sketch || !l->seen) return 0;
    for (int64_t i = 0; i < room; i++) l->classes[i] = -1;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = starts[sets[i]]; k < starts[sets[i] + 1]; k++) {
            int64_t slot = slot_of(l, shingles[k]);
            l->value[slot] = shingles[k], l->count[slot]++;
        }
    int64_t stop = 0;
    for (int64_t i = 0; i < rows; i++) {
        l->starts[i] = stop, l->seen[i] = -1;
        for (int64_t k = starts[sets[i]]; k < starts[sets[i] + 1]; k++) {
            uint64_t hash = mix(shingles[k]) >> 32;
            l->sketch[i * SKETCH + (int64_t)(hash / 64 % SKETCH)] ^= (uint64_t)1 << (hash % 64);
            l->tokens[stop++] = (uint64_t)l->count[slot_of(l, shingles[k])] << 32 | shingles[k];
        }
        qsort(l->tokens + l->starts[i], (size_t)(stop - l->starts[i]), 8, rising);
        for (int64_t k = l->starts[i]; k < stop; k++) l->slots[k] = slot_of(l, (uint32_t)l->tokens[k]);
    }
    l->starts[rows] = stop;
    return 1;
}

/* The overlap of two rows' sets, or -1 if it is below `least`: rare shingles come first, so that it is known soon. */
static int64_t overlap_of(const Leaders *l, int64_t x, int64_t y, int64_t least) {
    int64_t i = l->starts[x], i_end = l->starts[x + 1], j = l->starts[y], j_end = l->starts[y + 1], both = 0;
    int64_t spare = i_end - i + j_end - j - 2 * least, differ = 0;
    for (int64_t k = 0; k < SKETCH; k++) differ += __builtin_popcountll(l->sketch[x * SKETCH + k] ^ l->sketch[y * SKETCH + k]);
    if (differ > spare) return -1;
    while (i < i_end && j < j_end && spare >= 0) {
        uint64_t a = l->tokens[i], b = l->tokens[j];
        both += a == b, spare -= a != b, i += a <= b, j += b <= a;
    }
    return spare < 0 || both < least ? -1 : both;
}

static int32_t share_a_band(const uint64_t *keys, int64_t bands, int64_t x, int64_t y) {
    for (int64_t b = 0; b < bands; b++)
        if (keys[x * bands + b] == keys[y * bands + b]) return 1;
    return !bands;
}

/* Looks at one leader; the best so far stands in *best. */
static void look(const Leaders *l, int64_t x, int64_t y, double threshold, const uint64_t *keys, int64_t bands, int64_t *best, double *similar) {
    int64_t a = l->starts[x + 1] - l->starts[x], b = l->starts[y + 1] - l->starts[y];
    if (y >= *best || !share_a_band(keys, bands, x, y)) return;
    int64_t both = overlap_of(l, x, y, least_overlap(threshold, a, b));
    if (both >= 0 && similarity_of(both, a + b) >= threshold) *best = y, *similar = similarity_of(both, a + b);
}

/* Looks at the leaders that can be similar to row x. */
static void search(Leaders *l, int64_t x, double threshold, const uint64_t *keys, int64_t bands, int64_t *best, double *similar) {
    int64_t size = l->starts[x + 1] - l->starts[x], most = size - least_overlap(threshold, size, 0 < size ? (int64_t)(threshold * (double)size) : 0);
    for (int64_t i = 0; i <= most && i < size; i++)
        for (int64_t c = l->classes[l->slots[l->starts[x] + i]]; c >= 0; c = l->class[c].next) {
            int64_t other = l->class[c].size, least = least_overlap(threshold, size, other);
            if (least > size - i || least > other - l->class[c].least) continue;
            for (int64_t p = l->class[c].postings; p >= 0; p = l->posting[p].next) {
                int64_t y = l->posting[p].leader;
                if (y >= *best || l->seen[y] == x || least > other - l->posting[p].place) continue;
                l->seen[y] = x;
                look(l, x, y, threshold, keys, bands, best, similar);
            }
        }
}

static void *grown(void *old, int64_t *room, int64_t wanted, size_t size) {
    if (wanted < *room) return old;
    *room = 2 * wanted + 64;
    return realloc(old, (size_t)*room * size);
}

/* Lets later rows find row x. */
static int32_t enter(Leaders *l, int64_t x, double threshold) {
    int64_t size = l->starts[x + 1] - l->starts[x], least = (int64_t)(threshold * (double)size) - 1;
    for (int64_t j = 0; j < size && j <= size - (least > 0 ? least : 0); j++) {
        int64_t *first = &l->classes[l->slots[l->starts[x] + j]], c = *first;
        while (c >= 0 && l->class[c].size != size) c = l->class[c].next;
        if (c < 0) {
            Class *grown_class = grown(l->class, &l->class_room, l->num_classes, sizeof(Class));
            if (!grown_class) return 0;
            l->class = grown_class, c = l->num_classes++;
            l->class[c] = (Class){-1, *first, size, j}, *first = c;
        }
        Posting *grown_posting = grown(l->posting, &l->posting_room, l->num_postings, sizeof(Posting));
        if (!grown_posting) return 0;
        l->posting = grown_posting;
        l->posting[l->num_postings] = (Posting){x, j, l->class[c].postings};
        l->class[c].postings = l->num_postings++;
        if (j < l->class[c].least) l->class[c].least = j;
    }
    return 1;
}

/* One cluster; rows in the order in which they are preferred. */
static int32_t lead(const uint32_t *shingles, const int64_t *starts, const int64_t *sets, const uint8_t *stays, int64_t rows, double threshold,
                    const uint64_t *keys, int64_t bands, int64_t *leader, double *similar) {
    Leaders l = {0};
    int32_t done = prepare(&l, shingles, starts, sets, rows);
    for (int64_t x = 0; done && x < rows; x++) {
        int64_t best = rows;
        if (!stays[x] && rows <= FEW)
            for (int64_t y = 0; y < x && best == rows; y++) {
                if (leader[y] < 0) look(&l, x, y, threshold, keys, bands, &best, &similar[x]);
            }
        else if (!stays[x]) search(&l, x, threshold, keys, bands, &best, &similar[x]);
        leader[x] = best < rows ? best : -1;
        if (best == rows && rows > FEW) done = enter(&l, x, threshold);
    }
    free_leaders(&l);
    return done;
}

/* The leader of each row, -1 for those that stay, and the similarity to it. Rows of a cluster stand together, the preferred one first;
 * `stays` marks those that go for none. With keys[rows][bands] a leader must share one of its bands. Returns 0 if memory ends. */
int32_t leaders(const uint32_t *shingles, const int64_t *starts, const int64_t *sets, const int64_t *clusters, const uint8_t *stays, int64_t rows,
                double threshold, const uint64_t *keys, int64_t bands, int64_t *leader, double *similar) {
    for (int64_t first = 0, stop; first < rows; first = stop) {
        for (stop = first + 1; stop < rows && clusters[stop] == clusters[first];) stop++;
        if (!lead(shingles, starts, sets + first, stays + first, stop - first, threshold, keys + first * bands, bands, leader + first, similar + first))
            return 0;
        for (int64_t i = first; i < stop; i++) leader[i] += leader[i] < 0 ? 0 : first;
    }
    return 1;
}

/* The first of those that stay with which each row shares a key of some band, -1 for those that stay. Returns 0 if memory ends. */
int32_t stars(const uint64_t *keys, int64_t bands, const uint8_t *stays, int64_t rows, int64_t *leader) {
    int64_t room = 64;
    while (room < 2 * rows * bands) room *= 2;
    int64_t *owner = malloc((size_t)room * 8), *places = malloc((size_t)bands * 8);
    if (!owner || !places) return free(owner), free(places), 0;
    for (int64_t i = 0; i < room; i++) owner[i] = -1;
    for (int64_t x = 0; x < rows; x++) {
        int64_t best = rows;
        for (int64_t b = 0; b < bands; b++) {
            uint64_t key = keys[x * bands + b];
            int64_t slot = (int64_t)(mix(key + (uint64_t)b * BASE) & (uint64_t)(room - 1));
            while (owner[slot] >= 0 && (owner[slot] % bands != b || keys[owner[slot]] != key)) slot = (slot + 1) & (room - 1);
            places[b] = slot;
            if (owner[slot] >= 0 && owner[slot] / bands < best) best = owner[slot] / bands;
        }
        leader[x] = best < rows && !stays[x] ? best : -1;
        if (leader[x] >= 0) continue;
        for (int64_t b = 0; b < bands; b++) {
            /* An earlier band of this row may have taken the free slot that was found. */
            int64_t slot = places[b];
            while (owner[slot] >= 0 && (owner[slot] % bands != b || keys[owner[slot]] != keys[x * bands + b])) slot = (slot + 1) & (room - 1);
            if (owner[slot] < 0) owner[slot] = x * bands + b;
        }
    }
    free(owner), free(places);
    return 1;
}
