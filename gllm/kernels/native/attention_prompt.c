/* Attention of rows of several queries, by float32's own instructions or (attention_amx.c) on the matrix unit.
 *
 * The keys and values of a row are packed once for all of its queries, and tiles of ROWS queries go over blocks of
 * KEYS keys. Blocks begin at the start of the sequence, so that a query's result depends neither on who shares its
 * batch nor on how the prompt was cut.
 *
 * Source: online softmax, Milakov and Gimelshein 2018; blocks of keys, Dao et al. 2022.
 */
#include <omp.h>
#include <stdlib.h>

#include "attention_prompt.h"

#define KEYS 128 /* keys that are weighed at once */
#define FEW (1L << 18) /* products that one thread is done with before another has woken */
#define GATHERED 4096 /* tokens whose keys and values are packed at once, if one row has no more */

static void pack_keys(const Attention *a, const Chunk *chunk, long kv_head, long panel) {
    const long size = a->size, first = panel * PANEL, token_panels = panels_of(chunk->context);
    const long count = chunk->context - first < PANEL ? chunk->context - first : PANEL;
    const long value_panels = panels_of(size);
    float *keys = (float *)chunk->keys + (kv_head * token_panels + panel) * size * PANEL;
    const char *k_places[PANEL], *v_places[PANEL];
    locate(a, a->k_pages, chunk->row, first, count, k_places);
    locate(a, a->v_pages, chunk->row, first, count, v_places);
    if (count < PANEL) memset(keys, 0, 4 * size * PANEL);
    for (long t = 0; t < count; t++)
        for (long d = 0; d < size; d += LANES) {
            const long lanes = size - d < LANES ? size - d : LANES, at = kv_head * size + d;
            const vec key = stored(k_places[t], at, lanes);
            for (long i = 0; i < lanes; i++) keys[(d + i) * PANEL + t] = key[i];
            float *values = (float *)chunk->values + ((kv_head * value_panels + d / PANEL) * chunk->context + first + t) * PANEL;
            store(values + d % PANEL, stored(v_places[t], at, lanes));
            if (d + LANES >= size && d % PANEL == 0) store(values + LANES, (vec){0});
        }
}

static long row_tiles(const Attention *a, long length) { return (length + ROWS - 1) / ROWS * a->heads; }

/* ROWS queries of one query head. */
static void attend_tile(const Attention *a, const Chunk *chunk, long item) {
    const long count = a->starts[chunk->row + 1] - a->starts[chunk->row], tiles = (count + ROWS - 1) / ROWS;
    const long head = item / tiles, query = item % tiles * ROWS;
    const long size = a->size, kv_head = head / (a->heads / a->kv_heads), value_panels = panels_of(size);
    const long padded = value_panels * PANEL, before = a->before[chunk->row], token = a->starts[chunk->row] + query;
    const long rows = count - query < ROWS ? count - query : ROWS;
    const float *keys = (float *)chunk->keys + kv_head * panels_of(chunk->context) * size * PANEL;
    const float *values = (float *)chunk->values + kv_head * value_panels * chunk->context * PANEL;
    float q[size * ROWS];
    float scores[ROWS * KEYS] __attribute__((aligned(64)));
    float out[ROWS * padded] __attribute__((aligned(64)));
    float top[ROWS], total[ROWS];
    memset(q, 0, sizeof q);
    for (long i = 0; i < rows; i++)
        for (long d = 0; d < size; d++)
            q[d * ROWS + i] = a->q[(token + i) * a->q_step + head * size + d] * a->scale;
    for (long i = 0; i < ROWS; i++) {
        top[i] = -INFINITY;
        total[i] = 0;
    }
    const long reach = before + query + rows; /* keys that the last query sees */
    for (long first = 0; first < reach; first += KEYS) {
        const long tokens = reach - first < KEYS ? reach - first : KEYS;
        for (long p = 0; p < panels_of(tokens); p++)
            tile(FLOAT32, ROWS, size, q, 1, ROWS, keys + (first / PANEL + p) * size * PANEL, scores + p * PANEL,
                 KEYS, 1, NULL, 64, 0);
        for (long i = 0; i < ROWS; i++) {
            const long seen = before + query + i + 1 - first;
            float *row = scores + i * KEYS;
            if (i >= rows || seen <= 0) {
                memset(row, 0, 4 * KEYS);
                continue;
            }
            const long visible = seen < tokens ? seen : tokens;
            const float factor = soften(row, visible, top + i, total + i);
            for (long t = (visible + LANES - 1) / LANES * LANES; t < tokens; t++) row[t] = 0;
            if (first && factor != 1)
                for (long d = 0; d < padded; d += LANES) store(out + i * padded + d, load(out + i * padded + d) * factor);
        }
        for (long p = 0; p < value_panels; p++)
            tile(FLOAT32, ROWS, tokens, scores, KEYS, 1, values + (p * chunk->context + first) * PANEL,
                 out + p * PANEL, padded, first == 0, NULL, 64, 0);
    }
    for (long i = 0; i < rows; i++)
        for (long d = 0; d < size; d++)
            a->out[((token + i) * a->heads + head) * size + d] = out[i * padded + d] / total[i];
}

/* The chunk that item number `item` belongs to. */
INLINE const Chunk *chunk_of(const Chunk *chunks, long count, long item) {
    long low = 0, high = count;
    while (high - low > 1) {
        const long middle = (low + high) / 2;
        if (chunks[middle].first_item <= item)
            low = middle;
        else
            high = middle;
    }
    return chunks + low;
}

/* How a chunk is worked on. */
typedef struct {
    size_t (*keys_size)(const Attention *a, long context), (*values_size)(const Attention *a, long context); /* of a key head */
    void (*begin)(void), (*end)(void);
    void (*pack)(const Attention *a, const Chunk *chunk, long kv_head, long panel);
    long (*items)(const Attention *a, long length); /* of a row of so many queries; later ones take longer */
    void (*attend)(const Attention *a, const Chunk *chunk, long item);
} Way;

static size_t keys_size(const Attention *a, long context) { return sizeof(float) * panels_of(context) * PANEL * a->size; }

static size_t values_size(const Attention *a, long context) { return sizeof(float) * panels_of(a->size) * PANEL * context; }

static void nothing(void) {}

static Way way_of(void) {
#ifdef HAS_TILES
    if (gllm_has_matrix_unit())
        return (Way){tiles_size, tiles_size, begin_tiles, end_tiles, pack_tiles, column_tiles, attend_tiles};
#endif
    return (Way){keys_size, values_size, nothing, nothing, pack_keys, row_tiles, attend_tile};
}

/* Rows [*at, ...) of several queries, as many as fit the workspace; *at moves on. Returns 1 if memory is short. */
static int attend_chunks(const Attention *a, const long *long_rows, long num_rows, long *at, Chunk *chunks) {
    const Way way = way_of();
    long count = 0, tokens = 0, items = 0;
    long work = 0;
    size_t bytes = 0;
    for (long n = *at; n < num_rows; n++) {
        const long row = long_rows[n], length = a->starts[row + 1] - a->starts[row], context = a->before[row] + length;
        if (count && tokens + context > GATHERED) break;
        chunks[count++] = (Chunk){row, context, NULL, NULL, items};
        bytes += (way.keys_size(a, context) + way.values_size(a, context)) * a->kv_heads;
        tokens += context;
        work += length * context * a->heads * a->size;
        items += way.items(a, length);
    }
    *at += count;
    char *packed = (char *)workspace(bytes / sizeof(float));
    if (!packed) return 1;
    for (Chunk *chunk = chunks; chunk < chunks + count; chunk++) {
        chunk->keys = packed;
        chunk->values = packed + way.keys_size(a, chunk->context) * a->kv_heads;
        packed = (char *)chunk->values + way.values_size(a, chunk->context) * a->kv_heads;
    }
#pragma omp parallel if (work > FEW)
    {
        way.begin();
        for (long c = 0; c < count; c++) {
            const long packs = panels_of(chunks[c].context) * a->kv_heads;
#pragma omp for schedule(static) nowait
            for (long i = 0; i < packs; i++) way.pack(a, chunks + c, i % a->kv_heads, i / a->kv_heads);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
        for (long n = 0; n < items; n++) {
            const long item = items - 1 - n; /* of a head the longest first */
            const Chunk *chunk = chunk_of(chunks, count, item);
            way.attend(a, chunk, item - chunk->first_item);
        }
        way.end();
    }
    return 0;
}

int attend_prompts(const Attention *a, const long *rows, long count) {
    Chunk *chunks = malloc(sizeof(Chunk) * count);
    long at = 0;
    int failed = !chunks;
    while (!failed && at < count) failed = attend_chunks(a, rows, count, &at, chunks);
    free(chunks);
    return failed;
}
