-- Every raw pin of the days, with the reason for which staging refuses it, or null; and which of the usable rows of its
-- pin it is, among those of the days.
with measured as (
    select
        *,
        rowid as arrival,
        case
            when len(embedding) = {{ var('dimensions') }} and list_count(embedding) = {{ var('dimensions') }}
                then sqrt(array_inner_product(
                    embedding::double[{{ var('dimensions') }}], embedding::double[{{ var('dimensions') }}]
                ))
        end as norm
    from {{ source('raw', 'pins') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
),

judged as (
    select
        *,
        case
            when pin_id is null then 'pin_id is null'
            when pin_id = -1 then 'pin_id -1 is reserved'
            when created_at is null then 'created_at is null'
            when created_at >= dt + interval 1 day then 'created_at is after the day of its partition'
            when embedding is null then 'embedding is null'
            when len(embedding) <> {{ var('dimensions') }}
                then concat('embedding has length ', len(embedding), ', not ', {{ var('dimensions') }})
            when norm is null then 'embedding holds a null'
            when not isfinite(norm) then 'embedding holds NaN or infinity'
            when norm = 0 then 'embedding is all zero'
        end as reason
    from measured
)

select
    * exclude (arrival),
    row_number() over (partition by pin_id, reason is null order by dt, arrival) as nth
from judged
