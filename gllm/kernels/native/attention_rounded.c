/* Attention with one query over bfloat16 pages, on the matrix unit: to the bit what a prompt's query gives (attention_amx.c).
 *
 * All is as there, but that values lie on the right, as they are read: two tokens' elements only have to alternate. The
 * columns of several key heads share 16 lanes while scores become weights.
 */
#include "attention_decode.h"

#ifdef HAS_TILES
#include "attention_amx.h"
#include "attention_stream.h"

/* Query heads that share a key head, at most 16 of them: lanes [lane, lane + count). */
typedef struct {
    long kv_head, head, count, lane;
} Piece;

/* Tiles 0, 1: scores, [16 keys][width]; 4, 5: keys; 6: queries. */
static void configure_scores(long width) {
    const int rows[8] = {16, 16, 16, 16, 16, 16, 16, 16}, bytes[8] = {4 * width, 4 * width, 64, 64, 64, 64, 4 * width, 4 * width};
    configure_tiles(rows, bytes);
}

/* Tiles 0 to 3: outputs, [width][16]; 4: weights; 5 to 7: values. */
static void configure_outputs(long width) {
    const int rows[8] = {width, width, width, width, width, 16, 16, 16}, bytes[8] = {64, 64, 64, 64, 64, 64, 64, 64};
    configure_tiles(rows, bytes);
}

/* Of 32 elements those that are there, if `left` are left. */
INLINE __mmask32 elements(long left) { return first_lanes(left) | (uint32_t)first_lanes(left - 16) << 16; }

/* Keys as rows of tiles, where they do not lie in memory like that; those behind the last, which nobody looks at, are the last. */
static void put_keys(const char **places, long count, long at, long left, char *to) {
    for (long t = 0; t < 32; t++)
        _mm512_store_si512(to + 64 * t, _mm512_maskz_loadu_epi16(elements(left), places[t < count ? t : count - 1] + 2 * at));
}

/* scores[32 keys][16], a piece's columns of them. is_tiled: 16 keys, or what else is in their place, lie at even steps. */
INLINE void score(const Attention *a, Stream *stream, int is_tiled, const char **places, long count, const Piece *piece,
                  const char *q, float *scores) {
    const long size = a->size, steps = panels_of(size), step_bytes = is_tiled ? 2 * a->kv_heads * size : 64;
    char keys[2 * TILE_BYTES] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    for (long step = 0; step < steps; step++) {
        const long at = piece->kv_head * size + step * STEP;
        if (!is_tiled) put_keys(places, count, at, size - step * STEP, keys);
        if (step < 2) ask(stream);
        _tile_loadd(6, q + step * TILE_BYTES + 4 * piece->lane, 64);
        _tile_loadd(4, is_tiled ? places[0] + 2 * at : keys, step_bytes);
        _tile_loadd(5, is_tiled ? places[count > 16 ? 16 : 0] + 2 * at : keys + TILE_BYTES, step_bytes);
        if (step < 2) ask(stream);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, scores + piece->lane, 64);
    _tile_stored(1, scores + 256 + piece->lane, 64);
}

/* 32 tokens' values of 32 outputs from element `at` on as two tiles, of which the first holds fours 0, 2, 4, 6 of them. */
INLINE void put_values(int is_whole, const char **places, long count, long at, long left, char *to) {
    const __mmask32 there = elements(left);
#pragma GCC unroll 4
    for (long t = 0; t < 32; t += 2) {
        __m512i even, odd;
        if (is_whole) {
            even = _mm512_loadu_si512(places[t] + 2 * at);
            odd = _mm512_loadu_si512(places[t + 1] + 2 * at);
        } else { /* zeros behind the last token */
            even = _mm512_maskz_loadu_epi16(t < count ? there : 0, places[t < count ? t : 0] + 2 * at);
            odd = _mm512_maskz_loadu_epi16(t + 1 < count ? there : 0, places[t + 1 < count ? t + 1 : 0] + 2 * at);
        }
        _mm512_store_si512(to + 32 * t, _mm512_unpacklo_epi16(even, odd));
        _mm512_store_si512(to + TILE_BYTES + 32 * t, _mm512_unpackhi_epi16(even, odd));
    }
}

INLINE void put_any_values(const Attention *a, const char **places, long count, long kv_head, long step, char *to) {
    const long at = kv_head * a->size + step * STEP, left = a->size - step * STEP;
    if (count >= 32 && left >= 32)
        put_values(1, places, count, at, left, to);
    else
        put_values(0, places, count, at, left, to);
}

/* What one instruction each takes: 32 tokens' values of up to four tiles, the weights of a piece, and its sums. */
typedef struct {
    const char *values, *weights;
    float *sums;
    long step; /* bytes of a row of sums */
    int is_first, is_wide;
} Turn;

INLINE void multiply(const Turn *turn) {
    if (turn->is_first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, turn->sums, turn->step);
        _tile_loadd(1, turn->sums + 16, turn->step);
        if (turn->is_wide) {
            _tile_loadd(2, turn->sums + 32, turn->step);
            _tile_loadd(3, turn->sums + 48, turn->step);
        }
    }
    _tile_loadd(4, turn->weights, 64);
    _tile_loadd(5, turn->values, 64);
    _tile_dpbf16ps(0, 4, 5);
    _tile_stored(0, turn->sums, turn->step);
    _tile_loadd(6, turn->values + TILE_BYTES, 64);
    _tile_dpbf16ps(1, 4, 6);
    _tile_stored(1, turn->sums + 16, turn->step);
    if (turn->is_wide) {
        _tile_loadd(7, turn->values + 2 * TILE_BYTES, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_stored(2, turn->sums + 32, turn->step);
        _tile_loadd(5, turn->values + 3 * TILE_BYTES, 64);
        _tile_dpbf16ps(3, 4, 5);
        _tile_stored(3, turn->sums + 48, turn->step);
    }
}

/* sums[16 lanes][outputs] of all pieces, in the order of tiles; weights: [groups][16 lanes][32 tokens]. Values are read in the
 * order of memory, and brought into tiles while those before are multiplied. */
static void gather(const Attention *a, Stream *stream, long tokens, const Piece *pieces, long count, const char *weights, float *sums) {
    const long steps = panels_of(a->size), outputs = steps * PANEL;
    char values[2][4 * TILE_BYTES] __attribute__((aligned(64)));
    Turn turn = {NULL};
    int side = 0;
    for (long t = 0; t < tokens; t += 32)
        for (const Piece *piece = pieces; piece < pieces + count; piece++) {
            for (long step = 0; step < steps; step += 2, side = !side) {
                for (long s = step; s < steps && s < step + 2; s++) {
                    if (step == 0) ask(stream);
                    put_any_values(a, stream->values + t, tokens - t, piece->kv_head, s, values[side] + (s - step) * 2 * TILE_BYTES);
                    if (step == 0) ask(stream);
                }
                if (turn.values) multiply(&turn);
                float *to = sums + piece->lane * outputs + step * PANEL;
                turn = (Turn){values[side], weights + t * 32 + piece->lane * 64, to, 4 * outputs, t == 0, step + 1 < steps};
            }
        }
    multiply(&turn);
}

/* A head's outputs in their order. */
INLINE void put_outputs(const float *sums, long padded, float *out) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    for (long d = 0; d < padded; d += PANEL) {
        const __m512 x = _mm512_load_ps(sums + d), y = _mm512_load_ps(sums + d + 16);
        _mm512_storeu_ps(out + d, _mm512_permutex2var_ps(x, first, y));
        if (d + 16 < padded) _mm512_storeu_ps(out + d + 16, _mm512_permutex2var_ps(x, second, y));
    }
}

/* Pieces that share the lanes of a vector, `width` each. */
static void weigh_pieces(const Attention *a, const Split *split, Stream *stream, const Piece *pieces, long count, long width) {
    const long size = a->size, steps = panels_of(size), tokens = split->tokens, groups = panels_of(tokens), outputs = steps * PANEL;
    const int is_tiled = size % STEP == 0 && a->page_size % TILE_ROWS == 0;
    char q[steps * TILE_BYTES] __attribute__((aligned(64))), weights[SPLIT / STEP * TILE_BYTES] __attribute__((aligned(64)));
    float scores[SPLIT * 16] __attribute__((aligned(64))), sums[16 * outputs] __attribute__((aligned(64)));
    float top[16] __attribute__((aligned(64))), total[16] __attribute__((aligned(64)));
    const float *queries[16];
    for (long lane = 0; lane < count * width; lane++) {
        const Piece *piece = pieces + lane / width;
        const long head = piece->head + (lane % width < piece->count ? lane % width : 0);
        queries[lane] = a->q + a->starts[split->row] * a->q_step + head * size;
    }
    put_queries(1, queries, count * width, size, q);
    memset(scores, 0, sizeof scores);
    configure_scores(width);
    for (long t = 0; t < tokens; t += 32)
        for (const Piece *piece = pieces; piece < pieces + count; piece++) {
            if (is_tiled)
                score(a, stream, 1, stream->keys + t, tokens - t, piece, q, scores + 16 * t);
            else
                score(a, stream, 0, stream->keys + t, tokens - t, piece, q, scores + 16 * t);
        }
    for (long t = tokens; t < 32 * groups; t++) _mm512_store_ps(scores + 16 * t, _mm512_set1_ps(-INFINITY));
    const Sums found = weigh_columns(1, scores, groups, a->scale, weights);
    _mm512_store_ps(top, found.top);
    _mm512_store_ps(total, found.total);
    for (long group = 0; group < groups; group++) {
        __m512i x[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) x[i] = _mm512_load_si512(weights + group * TILE_BYTES + 64 * i);
        transpose(x);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm512_store_si512(weights + group * TILE_BYTES + 64 * i, x[i]);
    }
    configure_outputs(width);
    gather(a, stream, tokens, pieces, count, weights, sums);
    _tile_release();
    for (const Piece *piece = pieces; piece < pieces + count; piece++)
        for (long i = 0; i < piece->count; i++) {
            const long lane = piece->lane + i, head = piece->head + i, padded = padded_size(a);
            split->top[head] = top[lane];
            split->total[head] = total[lane];
            put_outputs(sums + lane * outputs, padded, split->out + head * padded);
        }
}

void weigh_rounded(const Attention *a, const Split *split, const Split *next, long kv_start, long kv_end) {
    const long shared = a->heads / a->kv_heads, width = shared < 16 ? shared : 16, tokens = split->tokens;
    Stream stream = {.keys = stream.places, .values = stream.places + tokens, .last = stream.places + 2 * tokens};
    Piece pieces[16];
    long count = 0;
    locate(a, a->k_pages, split->row, split->first, tokens, stream.keys);
    locate(a, a->v_pages, split->row, split->first, tokens, stream.values);
    if (next) {
        const long first = next->tokens < AHEAD ? next->tokens : AHEAD;
        locate(a, a->k_pages, next->row, next->first, first, stream.last);
        stream.last += first;
    }
    for (long kv_head = kv_start; kv_head < kv_end; kv_head++)
        for (long s = 0; s < shared; s += 16) {
            pieces[count] = (Piece){kv_head, kv_head * shared + s, shared - s < 16 ? shared - s : 16, count * width};
            count++;
            if ((count + 1) * width <= 16 && (kv_head + 1 < kv_end || s + 16 < shared)) continue;
            stream.start = pieces[0].kv_head * 2 * a->size;
            stream.end = (kv_head + 1) * 2 * a->size;
            stream.share = (8 + count - 1) / count;
            stream.next = stream.places + AHEAD;
            weigh_pieces(a, split, &stream, pieces, count, width);
            count = 0;
        }
}

void merge_rounded(const Attention *a, const Split *splits, long count, long head) {
    const long padded = padded_size(a);
    float *out = a->out + (a->starts[splits->row] * a->heads + head) * a->size;
    Sums sums = {_mm512_set1_ps(NOT_SEEN), _mm512_setzero_ps()};
    __m512 x[padded / 16];
    for (long n = 0; n < count; n++) {
        const float *part = splits[n].out + head * padded;
        const Sums found = {_mm512_set1_ps(splits[n].top[head]), _mm512_set1_ps(splits[n].total[head])};
        const Factors factors = join(&sums, found, a->scale);
        for (long d = 0; d < padded; d += 16) {
            const __m512 block = _mm512_loadu_ps(part + d);
            x[d / 16] = n ? _mm512_fmadd_ps(x[d / 16], factors.before, _mm512_mul_ps(block, factors.block)) : block;
        }
    }
    const __m512 share = _mm512_div_ps(_mm512_set1_ps(1), sums.total);
    for (long d = 0; d < padded; d += 16)
        _mm512_mask_storeu_ps(out + d, first_lanes(a->size - d), _mm512_mul_ps(x[d / 16], share));
}

#endif
