// Model: what network is computed. Read from models/NAME.yaml (schema: models/SCHEMA.md), or imported from a
// checkpoint's config.json. Plain data; every number is checked by model_read, so passes rely on it.
//
// Sources of the formulas: the block, attention, router and drafter are those of DESIGN.md, "Arithmetic".
#ifndef TILEGEN_MODEL_H
#define TILEGEN_MODEL_H
#include "diag.h"

typedef enum Dtype {
#define DTYPE(name, text, bits) DTYPE_##name,
#include "dtypes.def"
#undef DTYPE
    DTYPE_COUNT
} Dtype;
const char *dtype_name(Dtype dtype);
int dtype_bits(Dtype dtype);

enum { MAX_LAYERS = 256, MAX_TAPS = 16, MAX_ROWS = 8 };

// rope frequencies: inv_freq_i = theta^(-2i/rotary), then scaled as Llama 3 does when factor > 1.
typedef struct Rope {
    int rotary;               // leading q/k dims that rotate, pairs (i, i + rotary/2)
    double theta;             //
    double factor, low, high; // llama3 scaling; factor 1: none
    int original;             // context before scaling
} Rope;

// One kind of attention layer. Query head h reads kv head h * kv_heads / heads. Score scale 1/sqrt(qk_dim).
typedef struct Attention {
    int heads, kv_heads, qk_dim, v_dim;
    int window;         // keys seen, the query's own included; 0: all
    bool sink;          // a learned logit a query head
    bool qk_norm;       // RMSNorm a head on q and k before RoPE
    double value_scale; // v is multiplied by it
    Rope rope;
} Attention;

// silu(alpha * gate) * up with alpha 1; `limit` > 0 clamps gate to <= limit and up to [-limit, limit].
typedef struct Activation {
    double alpha, limit;
} Activation;

typedef enum Score { SCORE_SIGMOID, SCORE_SOFTMAX } Score;

typedef struct Experts {
    int count, top_k, inner; // count 0: the model has none
    Activation activation;
    Score score;
    bool selection_bias; // added for the choice, never for the weight
    bool renormalise;    // weights over their sum + 1e-20
    double scale;
} Experts;

typedef enum LayerAttention { ATTENTION_FULL, ATTENTION_WINDOW, ATTENTION_KINDS } LayerAttention;
typedef enum LayerMlp { MLP_DENSE, MLP_EXPERTS } LayerMlp;
typedef struct Layer {
    LayerAttention attention;
    LayerMlp mlp;
} Layer;

typedef enum Family { FAMILY_MIMO_V2, FAMILY_LLAMA } Family; // tensor names and layout of the checkpoint

// The DFlash drafter. block is the number of slots, the anchor included.
typedef struct Drafter {
    int layers, block, inner;
    int taps[MAX_TAPS], tap_count; // target layers whose residual stream (after the layer) is read, ascending
    int mask_token;
    bool causal; // inside the block
    double eps;
    Attention attention; // window: of the context
    Activation activation;
    Dtype dtype; // of all its matrices
} Drafter;

typedef struct Model {
    const char *name;
    Family family;
    int hidden, vocab, context, layer_count;
    double eps;
    bool tied_head;
    Layer layers[MAX_LAYERS];
    Attention attention[ATTENTION_KINDS]; // heads 0: the kind does not occur
    int dense_inner;                      // 0: no dense layer
    Activation dense_activation;
    Experts experts;
    // dtype of each weight group; norms, sinks and biases are read as published
    Dtype embed_dtype, head_dtype, qkv_dtype, o_dtype, dense_dtype, experts_dtype, router_dtype;
    bool has_drafter;
    Drafter drafter;
    const char *tokenizer; // file name inside the weights folder, "tokenizer.json"
    const Source *source;  // the YAML text it came from (its bytes go into bundles)
} Model;

enum { MODEL_FILE_CAP = 1 << 20 };

// Reads and checks a YAML description. NULL after reporting (E01xx). `source` from file_read(MODEL_FILE_CAP).
Model *model_read(Ctx *ctx, Source *source);
// YAML text of a model, such that model_read gives the same Model; starts with a comment line when `note` is given.
char *model_print(Ctx *ctx, const Model *model, const char *note);
// A description from CHECKPOINT_DIR/config.json and, if there, CHECKPOINT_DIR/dflash/config.json. NULL after reporting.
Model *model_import(Ctx *ctx, const char *checkpoint);
// Compares the model with CHECKPOINT_DIR/config.json, field by field. False after reporting each difference (E01xx).
bool model_matches(Ctx *ctx, const Model *model, const char *checkpoint);

// Fused qkv of the mimo_v2 family: `chunks` chunks (kv heads of the full layers, or of the only kind there is), each
// [Q | K | V] of its heads. Rows of one chunk for this kind; the fp8 scale grid has ceil(rows / 128) rows a chunk.
int model_qkv_chunks(const Model *model);
int model_qkv_chunk_rows(const Model *model, LayerAttention kind);
// Index of `layer` among the drafter's taps, or -1.
int model_tap(const Model *model, int layer);
#endif
