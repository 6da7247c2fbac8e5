/* Attention as products: keys, and values, as weights, and queries in groups. */
#pragma once

#include "products.h"

/* Scores to e to the power of what each is above the highest; zeros fill up the last register. Returns their sum. */
static float exponentials(float *scores, int64_t size) {
    int64_t padded = round_up(size, LANES);
    for (int64_t i = size; i < padded; i++) scores[i] = -INFINITY;
    __m512 highest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < padded; i += LANES) highest = _mm512_max_ps(highest, _mm512_loadu_ps(scores + i));
    highest = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    for (int64_t i = 0; i < padded; i += LANES) {
        __m512 above = exponential(_mm512_loadu_ps(scores + i) - highest);
        sum += above;
        _mm512_storeu_ps(scores + i, above);
    }
    for (int64_t i = size; i < padded; i++) scores[i] = 0;
    return _mm512_reduce_add_ps(sum);
}

/* Keys, so far apart, as a weight whose outputs are scores: (span / TILE, size / FED, TILE, FED), with zeros where there are no
 * more. */
static void tile_keys(const bf16 *keys, int64_t apart, int64_t tokens, int64_t size, bf16 *to) {
    for (int64_t token = 0; token < round_up(tokens, TILE); token++) {
        bf16 *tile = to + token / TILE * TILE * size + token % TILE * FED;
        for (int64_t i = 0; i < size; i += FED) {
            uint32_t pair = 0;
            if (token < tokens) memcpy(&pair, keys + token * apart + i, sizeof pair);
            memcpy(tile + i * TILE, &pair, sizeof pair);
        }
    }
}

/* Values as one whose inputs are tokens: (size / TILE, span / FED, TILE, FED), with zeros where there are no more. */
static void tile_values(const bf16 *values, int64_t apart, int64_t tokens, int64_t size, int64_t span, bf16 *to) {
    static const bf16 nothing[TILE];
    for (int64_t at = 0; at < size; at += TILE) {
        int64_t count = size - at < TILE ? size - at : TILE;
        for (int64_t token = 0; token < span; token += FED, to += TILE * FED) {
            const bf16 *one = token < tokens ? values + token * apart + at : nothing;
            const bf16 *other = token + 1 < tokens ? values + (token + 1) * apart + at : nothing;
            for (int64_t i = 0; i < count; i++) {
                to[FED * i] = one[i];
                to[FED * i + 1] = other[i];
            }
        }
    }
}

/* Scratch of one thread. */
typedef struct {
    float *scores;
    bf16 *shares, *queries, *tiles;
} Scratch;

/* Attends for a group of `count` queries in scratch, the first `own[i]` tokens each: as rows of two products, with the keys
 * and with the values. To rows of `size`. */
static void attend_group(const bf16 *keys, const bf16 *values, int64_t span, int64_t size, int64_t count, const int64_t *own,
                         Scratch scratch, bf16 *const *to) {
    int64_t length = 0;
    Ahead ahead = {(const char *)keys, 0}; /* all is in the cache already */
    float products[GROUP][TILE], sums[GROUP];
    for (int64_t row = 0; row < count; row++) length = own[row] > length ? own[row] : length;
    length = round_up(length, TILE);
    for (int64_t at = 0; at < length; at += TILE) {
        tiles_of[count](keys + at * size, scratch.queries, size, ahead, products);
        for (int64_t row = 0; row < count; row++) memcpy(scratch.scores + row * length + at, products[row], sizeof *products);
    }
    for (int64_t row = 0; row < count; row++) {
        float *scores = scratch.scores + row * length;
        sums[row] = exponentials(scores, own[row]);
        for (int64_t i = round_up(own[row], LANES); i < length; i++) scores[i] = 0;
        bf16 shares[LANES];
        for (int64_t i = 0; i < length; i += LANES) {
            store_narrow(shares, _mm512_loadu_ps(scores + i));
            put_row(shares, LANES, scratch.shares + i * count, row, count);
        }
    }
    for (int64_t at = 0; at < size; at += TILE) {
        tiles_of[count](values + at * span, scratch.shares, length, ahead, products);
        for (int64_t row = 0; row < count; row++)
            for (int64_t i = 0; i < TILE && at + i < size; i += LANES)
                store_narrow(to[row] + at + i, _mm512_loadu_ps(products[row] + i) / sums[row]);
    }
}
