// Slots: every tensor that a checkpoint of a Model has, with its published name, dtype and shape, and where it is bound
// in a Checkpoint. Opening, making and writing checkpoints walk the same list.
#ifndef TILERUN_CHECKPOINT_SLOTS_H
#define TILERUN_CHECKPOINT_SLOTS_H
#include "checkpoint.h"
#include "shards.h"

typedef enum SlotKind {
    SLOT_MATRIX, // matrix->data
    SLOT_SCALE,  // matrix->scale
    SLOT_VECTOR  // *vector, floats
} SlotKind;

typedef struct Slot {
    const char *name;
    const char *group; // of the description's dtypes, for messages
    SlotKind kind;
    bool drafter;   // lies in dflash/
    bool elsewhere; // may be absent: the mask embedding has a second published form
    Matrix *matrix;
    const float **vector;
    const char *dtype; // as published; vectors are read as BF16 or F32 whichever this is
    int rank;
    int64_t shape[2];
    size_t bytes;    // of the published dtype
    float mean, std; // of synthetic values (a scale: of the weights it belongs to)
} Slot;

typedef struct Slots {
    Slot *at;
    size_t count, room;
} Slots;

typedef struct CheckpointInner {
    Shards *target, *drafter; // NULL in memory
    void *map;                // synthetic weights
    size_t map_bytes;
} CheckpointInner;

// An empty checkpoint of the model, all matrices described and unbound, and its slots. NULL after reporting E0732.
Checkpoint *checkpoint_new(Ctx *ctx, const Model *model, Slots *slots);
// The slots of a checkpoint that is bound already.
bool checkpoint_slots(Ctx *ctx, const Model *model, Checkpoint *checkpoint, Slots *slots);
#endif
