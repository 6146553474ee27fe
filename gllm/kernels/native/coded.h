/* Weights of 16 or 32 bits in fewer, without loss: what memory is read for when a row or few rows are multiplied.
 *
 * The weights of a matrix are of similar size, so the upper byte of a number (its sign and seven bits of its exponent)
 * takes few values: of the 1024 in a block nearly always at most 16, of which a table of the block's tells. Four bits
 * say which; the lower bytes are kept as they are. So a bfloat16 takes 12 bits, a float32 28. A block of more values
 * is kept plain: nothing grows but by its table.
 *
 * A block is STEP inputs by a panel's PANEL outputs. It lies in GROUPS pieces of four inputs each:
 *   codes [64], or upper bytes [2][64] of a plain block     of both pairs of inputs: the first in the lower four bits
 *   lower bytes [2][64]                                     of the upper halves of the numbers
 *   lower halves [2][2][32] of float32 only                 of 16 bits
 * Bytes lie so that interleaving upper with lower ones gives tiles' rows: [16 outputs][2 inputs].
 *
 * Products take weights as tiles, of float32 in parts, into which a block is decoded a group of four inputs at a time.
 * Knows nothing of products. Related: Zhang et al. 2025 (DFloat11), which codes exponents by Huffman's method.
 */
#ifndef GLLM_CODED_H
#define GLLM_CODED_H

#include "amx.h"

#define LINE 64
#define NEAR 512 /* bytes between what is decoded and what is asked for into the first cache */
#define FAR 3072 /* and into the second */
#define GROUPS (STEP / 4)
#define TABLE 16 /* bytes */

/* Blocks of [panels][steps]. Those of int8 are not coded: [STEP / 2][PANEL][2], without tables and starts. */
typedef struct {
    const char *blocks;
    const uint8_t *tables;  /* [blocks][TABLE] */
    const uint32_t *starts; /* [blocks + 1], of blocks, in lines */
} Weight;

/* Lines of a piece: of codes or of upper bytes, and all. */
INLINE long code_lines(int is_plain) { return is_plain ? 2 : 1; }

INLINE long piece_lines(int type, int is_plain) { return code_lines(is_plain) + (type == FLOAT32 ? 6 : 2); }

INLINE const char *block_of(int type, const Weight *weight, long block) {
    return weight->blocks + (type == INT8 ? block * STEP * PANEL : (long)weight->starts[block] * LINE);
}

INLINE int is_plain_block(int type, const Weight *weight, long block) {
    return weight->starts[block + 1] - weight->starts[block] != GROUPS * piece_lines(type, 0);
}

/* A block's table, four times: what a code's upper bits are is then of no concern to a permutation of bytes. */
INLINE __m512i table_of(const Weight *weight, long block) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(weight->tables + block * TABLE)));
}

/* The upper halves of both pairs of a piece: rows of tiles, [pair][half of the panel]. */
INLINE void upper_halves(const char *piece, int is_plain, __m512i table, __m512i rows[2][2]) {
    const __m512i *from = (const __m512i *)piece;
    const __m512i codes = _mm512_load_si512(from);
    const __m512i upper[2] = {
        is_plain ? codes : _mm512_permutexvar_epi8(codes, table),
        is_plain ? _mm512_load_si512(from + 1) : _mm512_permutexvar_epi8(_mm512_srli_epi16(codes, 4), table),
    };
#pragma GCC unroll 2
    for (int pair = 0; pair < 2; pair++) {
        const __m512i lower = _mm512_load_si512(from + code_lines(is_plain) + pair);
        rows[pair][0] = _mm512_unpacklo_epi8(lower, upper[pair]);
        rows[pair][1] = _mm512_unpackhi_epi8(lower, upper[pair]);
    }
}

/* The lower halves of one of its rows, float32 only. */
INLINE __m512i lower_halves(const char *piece, int is_plain, int pair, int half) {
    return _mm512_load_si512((const __m512i *)piece + code_lines(is_plain) + 2 + 2 * pair + half);
}

/* Of rows of tiles, [16 outputs][2 inputs] of 16 bits, either input as the upper half of 32, and back. */
INLINE __m512i even_of(__m512i row) { return _mm512_slli_epi32(row, 16); }
INLINE __m512i odd_of(__m512i row) { return _mm512_and_si512(row, _mm512_set1_epi32(0xffff0000)); }
INLINE __m512i row_of(__m512i even, __m512i odd) { return _mm512_srli_epi32(even, 16) | odd_of(odd); }

/* The two lower parts of float32 numbers, from their halves. */
INLINE void lower_parts(__m512i upper, __m512i lower, __m512i *middle, __m512i *low) {
    const __m512i even = even_of(upper), odd = odd_of(upper);
    const __m512 even_rest = (__m512)(even | (lower & _mm512_set1_epi32(0xffff))) - (__m512)even;
    const __m512 odd_rest = (__m512)(odd | _mm512_srli_epi32(lower, 16)) - (__m512)odd;
    *middle = row_of((__m512i)even_rest, (__m512i)odd_rest);
    *low = row_of((__m512i)without_high(even_rest), (__m512i)without_high(odd_rest));
}

INLINE int parts_of(int type) { return type == FLOAT32 ? 3 : 1; }

/* Bytes of a decoded block: [2 halves][parts][16][32]. */
INLINE long tiles_bytes(int type) { return 2 * parts_of(type) * TILE_BYTES; }

INLINE void ask_for(const char *from, long bytes) {
    for (long i = 0; i < bytes; i += LINE) {
        _mm_prefetch(from + NEAR + i, _MM_HINT_T0);
        _mm_prefetch(from + FAR + i, _MM_HINT_T1);
    }
}

/* A piece becomes two rows of the block's tiles, of which `to` is the first. */
INLINE void decode_piece(int type, const char *piece, int is_plain, __m512i table, char *to) {
    __m512i rows[2][2];
    ask_for(piece, LINE * piece_lines(type, is_plain));
    upper_halves(piece, is_plain, table, rows);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int pair = i / 2, half = i % 2;
        char *row = to + half * parts_of(type) * TILE_BYTES + pair * LINE;
        _mm512_store_si512(row, rows[pair][half]);
        if (type == FLOAT32) {
            __m512i middle, low;
            lower_parts(rows[pair][half], lower_halves(piece, is_plain, pair, half), &middle, &low);
            _mm512_store_si512(row + TILE_BYTES, middle);
            _mm512_store_si512(row + 2 * TILE_BYTES, low);
        }
    }
}

INLINE void widen_piece(const char *piece, char *to) {
    ask_for(piece, 2 * LINE);
    for (int i = 0; i < 4; i++) {
        const int pair = i / 2, half = i % 2;
        const __m512i both = _mm512_cvtepi16_epi32(_mm256_load_si256((const __m256i *)piece + i));
        const __m512i even = _mm512_srai_epi32(_mm512_slli_epi32(both, 24), 24), odd = _mm512_srai_epi32(both, 8);
        const __m512i row = row_of((__m512i)_mm512_cvtepi32_ps(even), (__m512i)_mm512_cvtepi32_ps(odd));
        _mm512_store_si512(to + half * TILE_BYTES + pair * LINE, row);
    }
}

/* Groups [first, last) of a block become rows of its tiles. */
INLINE void decode(int type, const Weight *weight, long block, long first, long last, char *tiles) {
    const char *from = block_of(type, weight, block);
    if (type == INT8) {
        for (long group = first; group < last; group++) widen_piece(from + group * 2 * LINE, tiles + group * 2 * LINE);
        return;
    }
    const __m512i table = table_of(weight, block);
    if (is_plain_block(type, weight, block))
        for (long group = first; group < last; group++)
            decode_piece(type, from + group * LINE * piece_lines(type, 1), 1, table, tiles + group * 2 * LINE);
    else
        for (long group = first; group < last; group++)
            decode_piece(type, from + group * LINE * piece_lines(type, 0), 0, table, tiles + group * 2 * LINE);
}

#endif
