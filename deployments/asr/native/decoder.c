/* Qwen3's language model for the CPU: a decode step of a few rows as one call, from embeddings to logits, and what lies
 * between the products where there are many, as in prompts.
 *
 * A step reads every weight once and does little with it, so it can be as fast as memory is; as some five hundred
 * operators of torch it takes nearly twice as long. Here all threads go through the layers side by side: each takes the
 * next few outputs of a product until there are none left, and they wait for each other between the products.
 *
 * Residuals and sums are float32, what goes into a product is bfloat16.
 */

#include "attention.h"

/* What a decode step needs besides the batch of its rows. */
typedef struct {
    float *residual;   /* (rows, hidden): the embeddings, and what becomes of them */
    float *logits;     /* (rows, vocabulary) */
    float *projected;  /* (rows, (heads + 2 * key_heads) * head_dim), the batch's, scratch as all that follow */
    bf16 *normed;      /* inputs of products: (threads, rows, hidden) */
    bf16 *gated;       /* (rows, intermediate) */
    uint8_t *rounded;  /* (threads, rows, largest number of inputs) */
    float *row_scales; /* (threads, rows) */
} Step;

/* What library.py checks before it uses this library: a number that rises when the meaning of anything here changes, the
 * sizes of what is passed, and of what is laid out for it. */
const int64_t decoder_interface[] = {
    3, sizeof(Layer), sizeof(Model), sizeof(Piece), sizeof(Batch), sizeof(Step), TILE, GROUP, BLOCK};

static void normalise_rows(const float *residual, const bf16 *weight, float epsilon, int64_t rows, int64_t size, bf16 *to) {
    for (int64_t row = 0; row < rows; row++) normalise(residual + row * size, weight, epsilon, size, to + row * size);
}

/* Each product, and attend, ends when all threads are done with it. residual is read by normalise_rows, and next written two
 * products later; what is named by threads is each one's own. So nothing is written that another thread still reads. */
void decode_step(const Model *model, const Batch *batch, const Step *step, int threads) {
    int64_t rows = batch->rows, hidden = model->hidden, inner = model->heads * model->head_dim;
    int64_t intermediate = model->intermediate, projections = inner + 2 * model->key_heads * model->head_dim;
    int64_t widest = inner > intermediate ? inner : intermediate;
    if (hidden > widest) widest = hidden;
#pragma omp parallel num_threads(threads)
    {
        int64_t thread = omp_get_thread_num();
        bf16 *normed = step->normed + thread * rows * hidden;
        float *row_scales = step->row_scales + thread * rows;
        uint8_t *rounded = step->rounded + thread * rows * widest;
        Inputs inputs;
        for (const Layer *layer = model->layers; layer < model->layers + model->layer_count; layer++) {
            normalise_rows(step->residual, layer->attention_norm, model->epsilon, rows, hidden, normed);
            inputs = inputs_for(layer->qkv, normed, rows, hidden, rounded, row_scales);
            multiply(layer->qkv, inputs, projections, rows, step->projected, 0);
            attend(model, layer, batch);
            inputs = inputs_for(layer->output, batch->attended, rows, inner, rounded, row_scales);
            multiply(layer->output, inputs, hidden, rows, step->residual, 1);
            normalise_rows(step->residual, layer->mlp_norm, model->epsilon, rows, hidden, normed);
            inputs = inputs_for(layer->gate_up, normed, rows, hidden, rounded, row_scales);
            multiply_gated(layer->gate_up, inputs, intermediate, rows, step->gated);
            inputs = inputs_for(layer->down, step->gated, rows, intermediate, rounded, row_scales);
            multiply(layer->down, inputs, hidden, rows, step->residual, 1);
        }
        normalise_rows(step->residual, model->norm, model->epsilon, rows, hidden, normed);
        inputs = inputs_for(model->head, normed, rows, hidden, rounded, row_scales);
        multiply(model->head, inputs, model->vocabulary, rows, step->logits, 0);
    }
}

/* One product: numbers (rows, size) to (rows, outputs). Scratch: (threads, rows, size) and (threads, rows). */
void multiply_rows(const Weight *weight, const bf16 *numbers, int64_t size, int64_t outputs, int64_t rows, float *to,
                   uint8_t *rounded, float *row_scales, int threads) {
#pragma omp parallel num_threads(threads)
    {
        int64_t thread = omp_get_thread_num();
        uint8_t *own = rounded + thread * rows * size;
        multiply(*weight, inputs_for(*weight, numbers, rows, size, own, row_scales + thread * rows), outputs, rows, to, 0);
    }
}

/* Attention of one layer, from what its qkv gives: keys and values go into the cache. */
void attend_tokens(const Model *model, int64_t layer, const Batch *batch, int threads) {
#pragma omp parallel num_threads(threads)
    attend(model, model->layers + layer, batch);
}

/* To the residual, (tokens, size), a change is added, and the sum normalised. */
void add_and_normalise(float *residual, const bf16 *change, const bf16 *weight, float epsilon, int64_t tokens, int64_t size,
                       bf16 *to, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t at = 0; at < tokens * size; at += size) {
        for (int64_t i = at; i < at + size; i += LANES)
            _mm512_storeu_ps(residual + i, _mm512_loadu_ps(residual + i) + load_wide(change + i));
        normalise(residual + at, weight, epsilon, size, to + at);
    }
}

/* (tokens, 2 * size), gates first, to silu(gates) * values, (tokens, size). */
void gate(const bf16 *gates_and_values, int64_t tokens, int64_t size, bf16 *to, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t i = 0; i < size; i += LANES) {
            const bf16 *gates = gates_and_values + 2 * token * size + i;
            store_narrow(to + token * size + i, silu(load_wide(gates)) * load_wide(gates + size));
        }
}
