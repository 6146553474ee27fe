/* Attention of prompts on the matrix unit (AMX): keys and values become tiles once for all queries of a row.
 *
 * Scores are keys times queries, and outputs values times weights: both are computed with a column for each query, and
 * keys and values on the left. Blocks of SPLIT keys begin at the start of the sequence, each has a maximum of its own, and a
 * weight of what a query does not see is 0: its result depends neither on who shares its batch nor on how the prompt was
 * cut.
 */
#include "attention_prompt.h"

#ifdef HAS_TILES
#include "attention_amx.h"

INLINE int parts_of_pages(const Attention *a) { return a->type == FLOAT32 ? 3 : 1; }

/* Bytes of a panel of keys, [steps][2][parts][16 keys][32 inputs], or of values, [steps][2][parts][16 outputs][32 tokens]. */
INLINE long panel_bytes(const Attention *a, int parts) { return panels_of(a->size) * 2 * parts * TILE_BYTES; }

size_t tiles_size(const Attention *a, long context) { return panels_of(context) * panel_bytes(a, parts_of_pages(a)); }

long column_tiles(const Attention *a, long length) {
    return (length * (a->heads / a->kv_heads) + COLUMNS - 1) / COLUMNS * a->kv_heads;
}

/* 32 numbers of a place from element `at` on, of which `left` are there, as the rows of tiles. */
INLINE void rows_of(int parts, const char *place, long at, long left, __m512i rows[parts]) {
    if (parts == 1) {
        const __mmask32 some = first_lanes(left) | (uint32_t)first_lanes(left - 16) << 16;
        rows[0] = _mm512_maskz_loadu_epi16(some, place + 2 * at);
        return;
    }
    __m512 x = _mm512_maskz_loadu_ps(first_lanes(left), place + 4 * at);
    __m512 y = _mm512_maskz_loadu_ps(first_lanes(left - 16), place + 4 * at + 64);
#pragma GCC unroll 3
    for (int part = 0; part < parts; part++) {
        rows[part] = high_of(x, y);
        x = without_high(x), y = without_high(y);
    }
}

static const uint16_t alternating[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};

/* 32 tokens' rows of 32 outputs become two tiles of 16 outputs, `step` bytes apart. */
INLINE void put_values(const __m512i *rows, int row_step, char *to, long step) {
    const __m512i order = _mm512_loadu_si512(alternating);
    for (int half = 0; half < 2; half++) {
        const __m512i taken = _mm512_add_epi16(order, _mm512_set1_epi16(16 * half));
        __m512i pairs[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            pairs[i] = _mm512_permutex2var_epi16(rows[2 * i * row_step], taken, rows[(2 * i + 1) * row_step]);
        transpose(pairs);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + half * step + i * 64, pairs[i]);
    }
}

INLINE void pack(const Attention *a, int parts, const Chunk *chunk, long kv_head, long panel) {
    const long size = a->size, first = panel * PANEL, panels = panels_of(chunk->context), bytes = panel_bytes(a, parts);
    const long count = chunk->context - first < PANEL ? chunk->context - first : PANEL;
    char *keys = (char *)chunk->keys + (kv_head * panels + panel) * bytes;
    char *values = (char *)chunk->values + (kv_head * panels + panel) * bytes;
    const char *places[PANEL];
    __m512i rows[PANEL][parts];
    locate(a, a->k_pages, chunk->row, first, count, places);
    for (long d = 0; d < size; d += STEP)
        for (long t = 0; t < PANEL; t++) {
            rows_of(parts, t < count ? places[t] : places[0], kv_head * size + d, t < count ? size - d : 0, rows[0]);
            for (int part = 0; part < parts; part++)
                _mm512_store_si512(keys + ((d / STEP * 2 + t / 16) * parts + part) * TILE_BYTES + t % 16 * 64, rows[0][part]);
        }
    locate(a, a->v_pages, chunk->row, first, count, places);
    for (long d = 0; d < size; d += STEP) {
        for (long t = 0; t < PANEL; t++)
            rows_of(parts, t < count ? places[t] : places[0], kv_head * size + d, t < count ? size - d : 0, rows[t]);
        for (int part = 0; part < parts; part++)
            put_values(&rows[0][part], parts, values + (d / STEP * 2 * parts + part) * TILE_BYTES, parts * TILE_BYTES);
    }
}

void pack_tiles(const Attention *a, const Chunk *chunk, long kv_head, long panel) {
    if (parts_of_pages(a) == 3)
        pack(a, 3, chunk, kv_head, panel);
    else
        pack(a, 1, chunk, kv_head, panel);
}

/* Tiles 0 to 3: sums, of two tiles of stored numbers by two of columns; 4, 5: what is stored; 6, 7: columns. */
INLINE void load_stored(int parts, const char *from, int part) {
    _tile_loadd(4, from + part * TILE_BYTES, 64);
    _tile_loadd(5, from + (parts + part) * TILE_BYTES, 64);
}

INLINE void load_columns(int wide, const char *from, long step, int part) {
    _tile_loadd(6, from + part * TILE_BYTES, 64);
    if (wide) _tile_loadd(7, from + step + part * TILE_BYTES, 64);
}

INLINE void multiply_loaded(int wide) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if (wide) {
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* sums[2 tiles of columns][2][16][16] = stored by columns. Both lie in `steps` pieces, the columns' tiles `wide_step` apart;
 * tiles of sums of the second columns lie `sums_step` floats behind the first. */
INLINE void product(int parts, int wide, const char *stored, long stored_step, const char *columns, long wide_step, long steps,
                    float *sums, long sums_step) {
    _tile_zero(0);
    _tile_zero(1);
    if (wide) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long step = 0; step < steps; step++, stored += stored_step, columns += parts * TILE_BYTES) {
        load_stored(parts, stored, 0);
        if (parts == 3) { /* the smallest products first; from one to the next, one side changes */
            load_columns(wide, columns, wide_step, 2);
            multiply_loaded(wide);
            load_columns(wide, columns, wide_step, 1);
            multiply_loaded(wide);
            load_stored(parts, stored, 1);
            multiply_loaded(wide);
        }
        load_columns(wide, columns, wide_step, 0);
        multiply_loaded(wide);
        if (parts == 3) {
            load_stored(parts, stored, 2);
            multiply_loaded(wide);
            load_stored(parts, stored, 0);
            multiply_loaded(wide);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (wide) {
        _tile_stored(2, sums + sums_step, 64);
        _tile_stored(3, sums + sums_step + 256, 64);
    }
}

/* Scores of keys from `first` on that a column does not see are minus infinity; it sees the first `visible` of them all. */
INLINE void hide(float *scores, long first, long tokens, __m512i visible) {
    for (long t = first; t < tokens; t++) {
        const __mmask16 hidden = _mm512_cmple_epi32_mask(visible, _mm512_set1_epi32(t));
        _mm512_mask_store_ps(scores + 16 * t, hidden, _mm512_set1_ps(-INFINITY));
    }
}

/* out (+)= block, [outputs][16 columns]. */
INLINE void add_block(float *out, const float *block, long outputs, Factors factors) {
    for (long d = 0; d < outputs; d++) {
        const __m512 x = _mm512_mul_ps(_mm512_load_ps(block + 16 * d), factors.block);
        _mm512_store_ps(out + 16 * d, _mm512_fmadd_ps(_mm512_load_ps(out + 16 * d), factors.before, x));
    }
}

/* Columns [column, column + COLUMNS) of a key head, of the row's `count`. */
INLINE void attend(const Attention *a, int parts, int wide, const Chunk *chunk, long kv_head, long column, long count) {
    const long size = a->size, shared = a->heads / a->kv_heads, steps = panels_of(size), outputs = steps * PANEL;
    const long before = a->before[chunk->row], token = a->starts[chunk->row], panels = panels_of(chunk->context);
    const long columns = count - column < COLUMNS ? count - column : COLUMNS, bytes = panel_bytes(a, parts);
    const long q_step = steps * parts * TILE_BYTES, weights_step = SPLIT / STEP * parts * TILE_BYTES;
    const char *keys = (char *)chunk->keys + kv_head * panels * bytes, *values = (char *)chunk->values + kv_head * panels * bytes;
    char q[2 * q_step] __attribute__((aligned(64))), weights[2 * weights_step] __attribute__((aligned(64)));
    float scores[2 * SPLIT * 16] __attribute__((aligned(64)));
    float out[2 * outputs * 16] __attribute__((aligned(64))), block[2 * outputs * 16] __attribute__((aligned(64)));
    int visible[COLUMNS] __attribute__((aligned(64)));
    const float *places[COLUMNS];
    float *results[COLUMNS];
    Sums sums[2];
    long query = column / shared, head = column % shared; /* of those that share the key head */
    for (long i = 0; i < columns; i++) {
        places[i] = a->q + (token + query) * a->q_step + (kv_head * shared + head) * size;
        results[i] = a->out + ((token + query) * a->heads + kv_head * shared + head) * size;
        visible[i] = before + query + 1;
        if (++head == shared) head = 0, query++;
    }
    for (long i = columns; i < COLUMNS; i++) visible[i] = visible[columns - 1];
    for (int tile = 0; tile <= wide; tile++) {
        put_queries(parts, places + 16 * tile, columns - 16 * tile < 16 ? columns - 16 * tile : 16, size, q + tile * q_step);
        sums[tile] = (Sums){_mm512_set1_ps(NOT_SEEN), _mm512_setzero_ps()};
    }
    const long reach = visible[columns - 1]; /* keys that the last column sees */
    for (long first = 0; first < reach; first += SPLIT) {
        const long tokens = reach - first < SPLIT ? reach - first : SPLIT, groups = panels_of(tokens);
        for (long p = 0; p < groups; p++)
            product(parts, wide, keys + (first / PANEL + p) * bytes, 2 * parts * TILE_BYTES, q, q_step, steps,
                    scores + p * PANEL * 16, SPLIT * 16);
        Factors factors[2];
        for (int tile = 0; tile <= wide; tile++) {
            float *own = scores + tile * SPLIT * 16;
            const long all_see = visible[16 * tile] - first;
            const __m512i see = _mm512_sub_epi32(_mm512_load_si512(visible + 16 * tile), _mm512_set1_epi32(first));
            hide(own, all_see > 0 ? all_see : 0, groups * PANEL, see);
            const Sums found = weigh_columns(parts, own, groups, a->scale, weights + tile * weights_step);
            factors[tile] = join(sums + tile, found, a->scale);
        }
        float *to = first ? block : out;
        for (long p = 0; p < steps; p++)
            product(parts, wide, values + first / PANEL * bytes + p * 2 * parts * TILE_BYTES, bytes, weights, weights_step, groups,
                    to + p * PANEL * 16, outputs * 16);
        for (int tile = 0; first && tile <= wide; tile++)
            add_block(out + tile * outputs * 16, block + tile * outputs * 16, outputs, factors[tile]);
    }
    for (int tile = 0; tile <= wide; tile++) {
        const __m512 share = _mm512_div_ps(_mm512_set1_ps(1), sums[tile].total);
        for (long d = 0; d < size; d += 16) {
            __m512i x[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) x[i] = (__m512i)_mm512_mul_ps(_mm512_load_ps(out + (tile * outputs + d + i) * 16), share);
            transpose(x);
            for (long i = 0; i < 16 && 16 * tile + i < columns; i++)
                _mm512_mask_storeu_ps(results[16 * tile + i] + d, first_lanes(size - d), (__m512)x[i]);
        }
    }
}

void attend_tiles(const Attention *a, const Chunk *chunk, long item) {
    const long count = (a->starts[chunk->row + 1] - a->starts[chunk->row]) * (a->heads / a->kv_heads);
    const long tiles = (count + COLUMNS - 1) / COLUMNS, kv_head = item / tiles, column = item % tiles * COLUMNS;
    const int wide = count - column > 16;
    if (parts_of_pages(a) == 3)
        wide ? attend(a, 3, 1, chunk, kv_head, column, count) : attend(a, 3, 0, chunk, kv_head, column, count);
    else
        wide ? attend(a, 1, 1, chunk, kv_head, column, count) : attend(a, 1, 0, chunk, kv_head, column, count);
}

void begin_tiles(void) {
    const int rows[8] = {16, 16, 16, 16, 16, 16, 16, 16}, bytes[8] = {64, 64, 64, 64, 64, 64, 64, 64};
    configure_tiles(rows, bytes);
}

void end_tiles(void) { _tile_release(); }

#endif
