/* Attention of the language model over its cache: of single tokens, each in a slot of its own, and of pieces of prompts. */
#pragma once

#include "attention.h"

enum { BLOCK = 128 }; /* tokens of a piece that a thread takes at a time */

typedef struct {
    Weight qkv;                 /* ((heads + 2 * key_heads) * head_dim, hidden) */
    Weight output;              /* (hidden, heads * head_dim) */
    Weight gate_up;             /* (2 * intermediate, hidden), gates first */
    Weight down;                /* (hidden, intermediate) */
    const bf16 *attention_norm; /* (hidden,) */
    const bf16 *head_norms;     /* (heads + key_heads, head_dim) */
    const bf16 *mlp_norm;       /* (hidden,) */
    bf16 *keys, *values;        /* (slots, key_heads, slot_tokens, head_dim) */
} Layer;

/* hidden, intermediate and the outputs of qkv are multiples of TILE, head_dim of LANES, GROUP of them at most; vocabulary
 * counts what fills up its last tile. Nothing in here checks that, nor the numbers of a Batch. */
typedef struct {
    const Layer *layers;
    Weight head;      /* (vocabulary, hidden) */
    const bf16 *norm; /* (hidden,) */
    int64_t layer_count, hidden, intermediate, heads, key_heads, head_dim, vocabulary, slot_tokens;
    float epsilon, head_epsilon, scaling;
} Model;

/* Tokens of a prompt whose earlier ones are in the cache. */
typedef struct {
    int64_t slot, start, tokens; /* start + tokens <= slot_tokens */
} Piece;

/* A token for each of some rows, and behind them those of pieces. */
typedef struct {
    int64_t rows, first_slot; /* first_slot + rows <= slots */
    const int64_t *positions; /* (rows,) where in its slot each token goes: 0 <= position < slot_tokens */
    int64_t piece_count;
    const Piece *pieces;
    const float *cosines;   /* (tokens, head_dim) */
    const float *sines;     /* (tokens, head_dim), the first half negated */
    const float *projected; /* (tokens, (heads + 2 * key_heads) * head_dim) */
    bf16 *attended;         /* (tokens, heads * head_dim) */
    /* Scratch of each thread, where span is slot_tokens, and padded_head head_dim, rounded up to TILE: */
    float *scores;          /* (threads, GROUP, span) */
    bf16 *shares;           /* (threads, GROUP, span) */
    bf16 *queries;          /* (threads, GROUP, head_dim) */
    bf16 *tiles;            /* (threads, span * head_dim + padded_head * span) */
} Batch;

static inline int64_t tokens_of(const Batch *batch) {
    int64_t tokens = batch->rows;
    for (int64_t i = 0; i < batch->piece_count; i++) tokens += batch->pieces[i].tokens;
    return tokens;
}

/* Normalise a head and turn it by its token's position. */
static void rotate(const float *head, const bf16 *weight, const float *cosines, const float *sines, int64_t size,
                   float epsilon, float scale, bf16 *to) {
    float weighted[size], swapped[size]; /* its halves */
    for (int64_t i = 0; i < size; i += LANES)
        _mm512_storeu_ps(weighted + i, _mm512_loadu_ps(head + i) * load_wide(weight + i));
    memcpy(swapped, weighted + size / 2, size / 2 * sizeof(float));
    memcpy(swapped + size / 2, weighted, size / 2 * sizeof(float));
    __m512 factor = _mm512_set1_ps(scale * norm_factor(head, size, epsilon));
    for (int64_t i = 0; i < size; i += LANES) {
        __m512 turned = _mm512_loadu_ps(weighted + i) * _mm512_loadu_ps(cosines + i);
        turned = _mm512_fmadd_ps(_mm512_loadu_ps(swapped + i), _mm512_loadu_ps(sines + i), turned);
        store_narrow(to + i, factor * turned);
    }
}

/* Values, (tokens, columns * LANES), weighted by their shares, in one pass. Inlined for each number of columns, of which
 * there are GROUP at most. */
static inline __attribute__((always_inline)) void weigh(
    const bf16 *values, const float *shares, int64_t tokens, int columns, bf16 *to) {
    __m512 sums[GROUP];
    for (int column = 0; column < columns; column++) sums[column] = _mm512_setzero_ps();
    for (int64_t token = 0; token < tokens; token++, values += columns * LANES) {
        __m512 share = _mm512_set1_ps(shares[token]);
        for (int column = 0; column < columns; column++)
            sums[column] = _mm512_fmadd_ps(share, load_wide(values + column * LANES), sums[column]);
    }
    for (int column = 0; column < columns; column++) store_narrow(to + column * LANES, sums[column]);
}

#define WEIGHS(columns)                                                                                                      \
    static __attribute__((noinline)) void weigh_##columns(const bf16 *values, const float *shares, int64_t tokens, bf16 *to) { \
        weigh(values, shares, tokens, columns, to);                                                                          \
    }
FOR_EACH_NUMBER(WEIGHS)
#define WEIGHER(columns) weigh_##columns,
static void (*const weighers[])(const bf16 *, const float *, int64_t, bf16 *) = {NULL, FOR_EACH_NUMBER(WEIGHER)};

/* One query over the keys and values of its slot. */
static void attend_once(const bf16 *query, const bf16 *keys, const bf16 *values, int64_t tokens, int64_t size, float *scores,
                        bf16 *to) {
    for (int64_t token = 0; token < tokens; token++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < size; i += FED * LANES) {
            __m512i key = load_some(keys + token * size + i, size - i);
            sum = add_products(sum, load_some(query + i, size - i), key);
        }
        scores[token] = _mm512_reduce_add_ps(sum);
    }
    __m512 sum = _mm512_set1_ps(exponentials(scores, tokens));
    for (int64_t i = 0; i < tokens; i += LANES) _mm512_storeu_ps(scores + i, _mm512_loadu_ps(scores + i) / sum);
    weighers[size / LANES](values, scores, tokens, to);
}

/* What one head of one layer works on. */
typedef struct {
    const Model *model;
    const Layer *layer;
    const Batch *batch;
    int64_t key_head;
} Head;

/* Where the keys, or the values, of a slot begin. */
static bf16 *in_slot(Head head, bf16 *entries, int64_t slot) {
    return entries + (slot * head.model->key_heads + head.key_head) * head.model->slot_tokens * head.model->head_dim;
}

/* Token `token` of a batch, normalised and turned: its head `index`, of queries and then of keys. */
static void rotate_token(Head head, int64_t token, int64_t index, float scale, bf16 *to) {
    const Model *model = head.model;
    int64_t size = model->head_dim, outputs = (model->heads + 2 * model->key_heads) * size;
    const float *projected = head.batch->projected + token * outputs + index * size;
    rotate(projected, head.layer->head_norms + index * size, head.batch->cosines + token * size,
           head.batch->sines + token * size, size, model->head_epsilon, scale, to);
}

/* The key and the value of a token go into the cache. */
static void remember(Head head, int64_t token, int64_t slot, int64_t position) {
    const Model *model = head.model;
    int64_t size = model->head_dim, outputs = (model->heads + 2 * model->key_heads) * size;
    rotate_token(head, token, model->heads + head.key_head, 1, in_slot(head, head.layer->keys, slot) + position * size);
    const float *value = head.batch->projected + token * outputs + (model->heads + model->key_heads + head.key_head) * size;
    bf16 *to = in_slot(head, head.layer->values, slot) + position * size;
    for (int64_t i = 0; i < size; i += LANES) store_narrow(to + i, _mm512_loadu_ps(value + i));
}

static void attend_row(Head head, int64_t row, float *scores) {
    const Model *model = head.model;
    int64_t size = model->head_dim, group = model->heads / model->key_heads, first = head.key_head * group;
    int64_t slot = head.batch->first_slot + row, position = head.batch->positions[row];
    remember(head, row, slot, position);
    for (int64_t index = first; index < first + group; index++) {
        bf16 query[size], *to = head.batch->attended + (row * model->heads + index) * size;
        rotate_token(head, row, index, model->scaling, query);
        attend_once(query, in_slot(head, head.layer->keys, slot), in_slot(head, head.layer->values, slot), position + 1, size,
                    scores, to);
    }
}

static Scratch scratch_of(const Model *model, const Batch *batch) {
    int64_t thread = omp_get_thread_num(), size = model->head_dim, span = round_up(model->slot_tokens, TILE);
    return (Scratch){
        batch->scores + thread * GROUP * span,
        batch->shares + thread * GROUP * span,
        batch->queries + thread * GROUP * size,
        batch->tiles + thread * span * (size + round_up(size, TILE)),
    };
}

/* Attends for up to BLOCK tokens of a piece, from its token `first` on, which is the batch's token `token`: a few queries at a
 * time, each token's heads side by side. */
static void attend_block(Head head, Piece piece, int64_t first, int64_t token, Scratch scratch) {
    const Model *model = head.model;
    int64_t size = model->head_dim, group = model->heads / model->key_heads, start = piece.start + first;
    int64_t tokens = least(BLOCK, piece.tokens - first), seen = start + tokens;
    int64_t span = round_up(seen, TILE), queries = tokens * group;
    bf16 *keys = scratch.tiles, *values = scratch.tiles + span * size;
    tile_keys(in_slot(head, head.layer->keys, piece.slot), size, seen, size, keys);
    tile_values(in_slot(head, head.layer->values, piece.slot), size, seen, size, span, values);
    for (int64_t query = 0; query < queries; query += GROUP) {
        int64_t count = least(GROUP, queries - query), own[GROUP];
        bf16 *to[GROUP], turned[size];
        for (int64_t row = 0; row < count; row++) {
            int64_t offset = (query + row) / group, index = head.key_head * group + (query + row) % group;
            rotate_token(head, token + offset, index, model->scaling, turned);
            put_row(turned, size, scratch.queries, row, count);
            own[row] = start + offset + 1;
            to[row] = head.batch->attended + ((token + offset) * model->heads + index) * size;
        }
        attend_group(keys, values, span, size, count, own, scratch, to);
    }
}

/* One block of a piece, and which token of the batch the piece begins with. */
typedef struct {
    const Piece *piece;
    int64_t first, token;
} Block;

static inline int64_t blocks_of(const Piece *piece) { return (piece->tokens + BLOCK - 1) / BLOCK; }

static Block block_of(const Batch *batch, int64_t index) {
    const Piece *piece = batch->pieces;
    int64_t token = batch->rows;
    for (; index >= blocks_of(piece); piece++) {
        index -= blocks_of(piece);
        token += piece->tokens;
    }
    return (Block){piece, index * BLOCK, token};
}

static void remember_block(Head head, Block block) {
    for (int64_t i = block.first; i < least(block.first + BLOCK, block.piece->tokens); i++)
        remember(head, block.token + i, block.piece->slot, block.piece->start + i);
}

/* All threads call it and share the heads of the tokens; none leaves before all have. */
static void attend(const Model *model, const Layer *layer, const Batch *batch) {
    Scratch scratch = scratch_of(model, batch);
    int64_t heads = model->key_heads, blocks = 0;
    for (int64_t i = 0; i < batch->piece_count; i++) blocks += blocks_of(batch->pieces + i);
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t item = 0; item < blocks * heads; item++)
        remember_block((Head){model, layer, batch, item % heads}, block_of(batch, item / heads));
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < batch->rows * heads; item++)
        attend_row((Head){model, layer, batch, item % heads}, item / heads, scratch.scores);
    if (blocks == 0) return;
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < blocks * heads; item++) {
        Block block = block_of(batch, item / heads);
        attend_block((Head){model, layer, batch, item % heads}, *block.piece, block.first, block.token + block.first, scratch);
    }
}
