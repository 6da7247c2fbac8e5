/* Qwen3's language model for the CPU, from embeddings to logits in one call.
 *
 * A decode step reads every weight once and does little with it, so it can be as fast as memory is; as some five hundred
 * operators of torch it takes nearly twice as long. Here all threads go through the layers side by side: each takes the
 * next few outputs of a product until there are none left, and they wait for each other between the products.
 *
 * Prompts have many tokens, for which oneDNN multiplies bfloat16 faster: there what lies between its products is called layer
 * by layer.
 *
 * Residuals and sums are float32, what goes into a product is bfloat16 or, where weights are int8, 8 bits.
 */

#include "attention.h"

/* What a pass through all layers needs besides its batch. */
typedef struct {
    int64_t wanted_count;
    const int64_t *wanted; /* the tokens of the batch, in order, whose logits are */
    float *logits;         /* (wanted, vocabulary) */
    float *residual;       /* (tokens, hidden): the embeddings, and what becomes of them */
    float *projected;      /* (tokens, (heads + 2 * key_heads) * head_dim), the batch's, scratch as all that follow */
    bf16 *normed;          /* inputs of products: (threads, tokens, hidden); of one thread where tokens are many, see Part */
    bf16 *gated;           /* (tokens, intermediate) */
    uint8_t *rounded;      /* (threads, tokens, largest number of inputs) */
    float *row_scales;     /* (threads, tokens) */
} Pass;

/* What library.py checks before it uses this library: a number that rises when the meaning of anything here changes, the
 * sizes of what is passed, and of what is laid out for it. */
const int64_t decoder_interface[] = {
    4, sizeof(Layer), sizeof(Model), sizeof(Piece), sizeof(Batch), sizeof(Pass), TILE, GROUP, BLOCK};

/* Room: (threads, rows, size). */
static const bf16 *normalise_rows(const float *residual, const bf16 *weight, float epsilon, int64_t rows, int64_t size,
                                  bf16 *room) {
    Part part = part_of(rows);
    bf16 *to = room + part.room * rows * size;
    for (int64_t row = part.first; row < part.end; row++)
        normalise(residual + row * size, weight, epsilon, size, to + row * size);
    wait_for(part);
    return to;
}

/* Only the wanted tokens go on. One thread moves them, and all wait for it. */
static void keep_wanted(const Pass *pass, float *residual, int64_t hidden, bf16 *attended, int64_t inner) {
#pragma omp single
    for (int64_t i = 0; i < pass->wanted_count; i++) {
        memmove(residual + i * hidden, residual + pass->wanted[i] * hidden, hidden * sizeof *residual);
        memmove(attended + i * inner, attended + pass->wanted[i] * inner, inner * sizeof *attended);
    }
}

/* Each product, and attend, ends when all threads are done with it. residual is read by normalise_rows, and next written two
 * products later; what is named by threads is each one's own, or is waited for. So nothing is written that another thread
 * still reads. */
void decode(const Model *model, const Batch *batch, const Pass *pass, int threads) {
    int64_t hidden = model->hidden, inner = model->heads * model->head_dim, intermediate = model->intermediate;
    int64_t projections = inner + 2 * model->key_heads * model->head_dim;
    const Layer *end = model->layers + model->layer_count;
#pragma omp parallel num_threads(threads)
    {
        int64_t tokens = tokens_of(batch);
        const bf16 *normed;
        Inputs inputs;
        for (const Layer *layer = model->layers; layer < end; layer++) {
            normed = normalise_rows(pass->residual, layer->attention_norm, model->epsilon, tokens, hidden, pass->normed);
            inputs = inputs_for(layer->qkv, normed, tokens, hidden, pass->rounded, pass->row_scales);
            multiply(layer->qkv, inputs, projections, tokens, pass->projected, 0);
            attend(model, layer, batch);
            if (layer + 1 == end && tokens != pass->wanted_count) {
                keep_wanted(pass, pass->residual, hidden, batch->attended, inner);
                tokens = pass->wanted_count;
            }
            inputs = inputs_for(layer->output, batch->attended, tokens, inner, pass->rounded, pass->row_scales);
            multiply(layer->output, inputs, hidden, tokens, pass->residual, 1);
            normed = normalise_rows(pass->residual, layer->mlp_norm, model->epsilon, tokens, hidden, pass->normed);
            inputs = inputs_for(layer->gate_up, normed, tokens, hidden, pass->rounded, pass->row_scales);
            multiply_gated(layer->gate_up, inputs, intermediate, tokens, pass->gated);
            inputs = inputs_for(layer->down, pass->gated, tokens, intermediate, pass->rounded, pass->row_scales);
            multiply(layer->down, inputs, hidden, tokens, pass->residual, 1);
        }
        normed = normalise_rows(pass->residual, model->norm, model->epsilon, tokens, hidden, pass->normed);
        inputs = inputs_for(model->head, normed, tokens, hidden, pass->rounded, pass->row_scales);
        multiply(model->head, inputs, model->vocabulary, tokens, pass->logits, 0);
    }
}

/* One product: numbers (rows, size) to (rows, outputs). Scratch: (threads, rows, size) and (threads, rows). */
void multiply_rows(const Weight *weight, const bf16 *numbers, int64_t size, int64_t outputs, int64_t rows, float *to,
                   uint8_t *rounded, float *row_scales, int threads) {
#pragma omp parallel num_threads(threads)
    multiply(*weight, inputs_for(*weight, numbers, rows, size, rounded, row_scales), outputs, rows, to, 0);
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
