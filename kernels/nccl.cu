#include "kernels/nccl.h"

#include <nccl.h>
#include <new>
#include <string.h>

#include "kernels/device.h"
#include "kernels/device_error.cuh"
#include "kernels/library.h"

static const char library_name[] = "libnccl.so.2";

struct nccl_functions {
  decltype(&ncclGetUniqueId)    id_make;
  decltype(&ncclCommInitRank)   open;
  decltype(&ncclCommDestroy)    close;
  decltype(&ncclAllReduce)      all_reduce;
  decltype(&ncclReduceScatter)  reduce_scatter;
  decltype(&ncclBroadcast)      broadcast;
  decltype(&ncclSend)           send;
  decltype(&ncclRecv)           receive;
  decltype(&ncclGroupStart)     group_begin;
  decltype(&ncclGroupEnd)       group_end;
  decltype(&ncclGetErrorString) error_text;
};

struct ingot_nccl {
  nccl_functions call;
  ncclComm_t     comm;
  int            device, rank, size;
};

static_assert(sizeof(ncclUniqueId) == INGOT_NCCL_ID_BYTES, "the id travels as bytes");

static ingot_status load(nccl_functions *f)
{
  ingot_status st = INGOT_OK;
  void        *library = nullptr;
  struct {
    const char *name;
    void       *address;
  } wanted[] = {{"ncclGetUniqueId", nullptr},   {"ncclCommInitRank", nullptr}, {"ncclCommDestroy", nullptr},
                {"ncclAllReduce", nullptr},     {"ncclSend", nullptr},         {"ncclRecv", nullptr},
                {"ncclGroupStart", nullptr},    {"ncclGroupEnd", nullptr},     {"ncclGetErrorString", nullptr},
                {"ncclReduceScatter", nullptr}, {"ncclBroadcast", nullptr}};
  INGOT_TRY(ingot_library_load(library_name, INGOT_NCCL_FOLDER, &library));
  for (auto &w : wanted) INGOT_TRY(ingot_library_function(library, library_name, w.name, &w.address));
  f->id_make = reinterpret_cast<decltype(f->id_make)>(wanted[0].address);
  f->open = reinterpret_cast<decltype(f->open)>(wanted[1].address);
  f->close = reinterpret_cast<decltype(f->close)>(wanted[2].address);
  f->all_reduce = reinterpret_cast<decltype(f->all_reduce)>(wanted[3].address);
  f->send = reinterpret_cast<decltype(f->send)>(wanted[4].address);
  f->receive = reinterpret_cast<decltype(f->receive)>(wanted[5].address);
  f->group_begin = reinterpret_cast<decltype(f->group_begin)>(wanted[6].address);
  f->group_end = reinterpret_cast<decltype(f->group_end)>(wanted[7].address);
  f->error_text = reinterpret_cast<decltype(f->error_text)>(wanted[8].address);
  f->reduce_scatter = reinterpret_cast<decltype(f->reduce_scatter)>(wanted[9].address);
  f->broadcast = reinterpret_cast<decltype(f->broadcast)>(wanted[10].address);
done:
  return st;
}

static ingot_status nccl_status(const nccl_functions *f, ncclResult_t result, const char *call)
{
  if (result == ncclSuccess) return INGOT_OK;
  int device = -1;
  (void)cudaGetDevice(&device);
  return ingot_fail(INGOT_ERR_DEVICE, "GPU %d: NCCL: %s in %s", device, f->error_text(result), call);
}

bool ingot_nccl_built(void)
{
  return true;
}

ingot_status ingot_nccl_look(void)
{
  nccl_functions f = {};
  return load(&f);
}

ingot_status ingot_nccl_id_make(unsigned char id[INGOT_NCCL_ID_BYTES])
{
  ingot_status   st = INGOT_OK;
  nccl_functions f = {};
  ncclUniqueId   made;
  INGOT_TRY(load(&f));
  INGOT_TRY(nccl_status(&f, f.id_make(&made), "ncclGetUniqueId"));
  memcpy(id, &made, sizeof made);
done:
  return st;
}

ingot_status ingot_nccl_open(int device, int rank, int size, const unsigned char id[INGOT_NCCL_ID_BYTES],
                             ingot_nccl **out)
{
  ingot_status st = INGOT_OK;
  ingot_nccl  *nccl = new (std::nothrow) ingot_nccl();
  ncclUniqueId shared;

  *out = nullptr;
  memcpy(&shared, id, sizeof shared);
  INGOT_CHECK(nccl != nullptr, INGOT_ERR_NOMEM, "out of host memory: %zu bytes wanted", sizeof *nccl);
  INGOT_TRY(ingot_device_use(device));
  nccl->device = device;
  nccl->rank = rank;
  nccl->size = size;
  INGOT_TRY(load(&nccl->call));
  INGOT_TRY(nccl_status(&nccl->call, nccl->call.open(&nccl->comm, size, shared, rank), "ncclCommInitRank"));
  *out = nccl;
  nccl = nullptr;
done:
  delete nccl; /* without a communicator: opening it was the last thing that could fail */
  return st;
}

void ingot_nccl_close(ingot_nccl **nccl)
{
  if (*nccl == nullptr) return;
  (void)cudaSetDevice((*nccl)->device);
  (void)(*nccl)->call.close((*nccl)->comm);
  delete *nccl;
  *nccl = nullptr;
}

ingot_status ingot_nccl_sum(ingot_nccl *nccl, ingot_dtype dtype, int64_t n, void *data, void *stream)
{
  INGOT_ASSERT(dtype == INGOT_DTYPE_F32 || dtype == INGOT_DTYPE_F64);
  (void)cudaSetDevice(nccl->device);
  return nccl_status(&nccl->call,
                     nccl->call.all_reduce(data, data, static_cast<size_t>(n),
                                           dtype == INGOT_DTYPE_F32 ? ncclFloat32 : ncclFloat64, ncclSum, nccl->comm,
                                           static_cast<cudaStream_t>(stream)),
                     "ncclAllReduce");
}

ingot_status ingot_nccl_sum_slices(ingot_nccl *nccl, int64_t n, float *data, void *stream)
{
  (void)cudaSetDevice(nccl->device);
  return nccl_status(&nccl->call,
                     nccl->call.reduce_scatter(data, data + nccl->rank * n, static_cast<size_t>(n), ncclFloat32,
                                               ncclSum, nccl->comm, static_cast<cudaStream_t>(stream)),
                     "ncclReduceScatter");
}

ingot_status ingot_nccl_share(ingot_nccl *nccl, void *data, const int64_t *begin, void *stream)
{
  ingot_status          st = INGOT_OK;
  const nccl_functions *f = &nccl->call;
  (void)cudaSetDevice(nccl->device);
  INGOT_TRY(nccl_status(f, f->group_begin(), "ncclGroupStart"));
  for (int r = 0; r < nccl->size && st == INGOT_OK; r++) {
    char *slice = static_cast<char *>(data) + begin[r];
    if (begin[r + 1] > begin[r])
      st = nccl_status(f,
                       f->broadcast(slice, slice, static_cast<size_t>(begin[r + 1] - begin[r]), ncclUint8, r,
                                    nccl->comm, static_cast<cudaStream_t>(stream)),
                       "ncclBroadcast");
  }
  if (st == INGOT_OK) st = nccl_status(f, f->group_end(), "ncclGroupEnd");
  else (void)f->group_end(); /* a group that was begun is ended in any case */
done:
  return st;
}

ingot_status ingot_nccl_swap(ingot_nccl *nccl, int dest, const ingot_nccl_piece *out, int n_out, int src,
                             const ingot_nccl_piece *in, int n_in, void *stream)
{
  ingot_status          st = INGOT_OK;
  const nccl_functions *f = &nccl->call;
  cudaStream_t          on = static_cast<cudaStream_t>(stream);
  if (n_out == 0 && n_in == 0) return INGOT_OK;
  (void)cudaSetDevice(nccl->device);
  INGOT_TRY(nccl_status(f, f->group_begin(), "ncclGroupStart"));
  for (int i = 0; i < n_out && st == INGOT_OK; i++)
    st = nccl_status(f, f->send(out[i].data, out[i].bytes, ncclUint8, dest, nccl->comm, on), "ncclSend");
  for (int i = 0; i < n_in && st == INGOT_OK; i++)
    st = nccl_status(f, f->receive(in[i].data, in[i].bytes, ncclUint8, src, nccl->comm, on), "ncclRecv");
  if (st == INGOT_OK) st = nccl_status(f, f->group_end(), "ncclGroupEnd");
  else (void)f->group_end(); /* a group that was begun is ended in any case */
done:
  return st;
}
