"""Samples to examples: what a run reads and how it encodes it, held as one value by all that look at a run's data."""

from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.data.augment import with_caption_prompt, with_one_answer
from mplug_owl.data.encode import Encoding, encode
from mplug_owl.data.mixture import SampleId
from mplug_owl.data.sources import Source
from mplug_owl.model.processor import Example, MplugOwlProcessor


@dataclass(frozen=True)
class Examples:
    """The samples of some sources as examples, a pure function of the seed; their pictures are not opened."""

    sources: Sequence[Source]
    processor: MplugOwlProcessor
    encoding: Encoding
    seed: int

    def __getitem__(self, sample: SampleId) -> Example:
        """Read and encode one sample. Raises BadSample where it cannot be read."""
        talk = with_one_answer(self.sources[sample.source][sample.index], self.seed, sample)
        if self.encoding.caption_prompts:
            talk = with_caption_prompt(talk, self.seed, sample)
        return encode(talk, self.processor, self.encoding)

    def name(self, sample: SampleId) -> str:
        """`SOURCE[INDEX]`: what is read from its source at this index."""
        return f"{self.sources[sample.source].name}[{sample.index}]"
